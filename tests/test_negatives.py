"""Hard negatives are nearer in words than random products, and visibly something else."""

import numpy as np
import pytest
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer

from mtive_nb.data.catalogue import Catalogue, Product, load_catalogue
from mtive_nb.data.mart.render import render_mart
from mtive_nb.data.negatives import HardNegatives, _descending, differing


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = render_mart(tmp_path_factory.mktemp("negatives") / "mart", products=64, photos=1, dates=0, seed=1)
    return load_catalogue(folder)


def words(product):
    return set(f"{product.title} {product.description} {product.category}".lower().replace(",", " ").split())


def test_hard_negatives_are_nearer_than_random_ones_by_shared_words_too(shop):
    negatives, rng = HardNegatives(shop), np.random.default_rng(0)
    products = {product.product_id: product for product in shop.products}
    hard, other, hard_words, other_words = [], [], [], []
    for product in shop.products:
        near, far = negatives.nearest(product.product_id, 1)[0], negatives.random(product.product_id, rng)
        places = [list(products).index(one) for one in (near, far)]
        hard.append(negatives.similarities(product.product_id)[places[0]])
        other.append(negatives.similarities(product.product_id)[places[1]])
        # Independent of TF-IDF: the share of words in common.
        for found, store in ((near, hard_words), (far, other_words)):
            a, b = words(product), words(products[found])
            store.append(len(a & b) / len(a | b))
    assert np.mean(hard) > 1.5 * np.mean(other)
    assert np.mean(hard_words) > 1.3 * np.mean(other_words)


def test_every_negative_is_another_product_of_the_same_group_and_looks_different(shop):
    table = HardNegatives(shop).table(2)
    assert len(table) == 2 * len(shop.products)
    assert (table["product_id"] != table["negative_id"]).all()
    assert (table["visual_distance"] >= 0.12).all() and (table["differs"] != "").all()
    assert table["same_coarse"].all()  # 64 products: at least five in each group


def test_only_allowed_products_serve_as_negatives(shop):
    allowed = {product.product_id for product in shop.products[:10]}
    negatives = HardNegatives(shop, allowed=allowed)
    found = {other for own in allowed for other in negatives.nearest(own, 9)}
    assert found <= allowed
    with pytest.raises(KeyError, match="M00063"):
        negatives.nearest("M00063", 1)


def test_products_that_look_alike_are_no_negatives(tmp_path):
    for name, colour in (("a", "red"), ("b", "red"), ("c", "blue")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    attributes = {"a": "cola", "b": "lemonade", "c": "cola"}
    products = [
        Product(k, "fizz drink", "", v, "drinks", {"category": v}, (f"{k}.png",)) for k, v in attributes.items()
    ]
    negatives = HardNegatives(Catalogue("tiny", tmp_path, products, []))
    assert negatives.nearest("a", 3) == []  # b has the same photo, c is the same category
    assert negatives.nearest("b", 3) == ["c"]
    assert negatives.random("a", np.random.default_rng(0)) is None
    assert differing({"colour": "red", "size": "1 L"}, {"colour": "blue", "size": "2 L"}) == ["colour"]


def test_the_order_is_the_own_group_first_and_then_by_similarity(shop):
    negatives = HardNegatives(shop, min_distance=-1.0)
    products = list(shop.products)
    for k in (0, 17, 40):
        own = products[k]
        near = negatives.nearest(own.product_id, len(products))
        similarity = negatives.similarities(own.product_id)
        assert similarity.argmax() == k and similarity[k] == pytest.approx(1)
        order = sorted(range(len(products)), key=lambda j: (products[j].coarse != own.coarse, -similarity[j]))
        wanted = [products[j].product_id for j in order if j != k]
        assert len(near) > 20 and near == [name for name in wanted if name in near]


def test_titles_without_words_of_two_letters_are_no_error(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    products = [Product(name, name, "", "", "", {}, ("a.png",)) for name in ("A", "B")]
    assert HardNegatives(Catalogue("x", tmp_path, products, [])).similarities("A").tolist() == [0, 0]
    assert HardNegatives(Catalogue("x", tmp_path, [], [])).table().empty


def test_a_similarity_is_the_cosine_of_tf_idf_vectors_and_memory_grows_with_the_texts(tmp_path):
    words = ["shampoo", "soap", "tea", "fresh", "mild", "blue", "box"]
    rng = np.random.default_rng(0)
    products = [Product(f"P{k}", " ".join(rng.choice(words, 4)), "", "", "", {}, ("a.png",)) for k in range(3000)]
    negatives = HardNegatives(Catalogue("x", tmp_path, products, []))
    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform([f"{p.title}  " for p in products]).toarray()
    for k in (0, 1234):
        np.testing.assert_allclose(negatives.similarities(f"P{k}"), vectors @ vectors[k], atol=1e-12)
    kept = negatives._vectors.data, negatives._vectors.indices
    assert sum(part.nbytes for part in kept) < 100 * len(products)  # a row of similarities alone has 8 bytes a product


def test_a_search_meets_all_products_by_falling_similarity() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.integers(0, 5, 1000) / 4, np.ones(1000), rng.random(1000), rng.random(9)):
        places = rng.permutation(len(values))
        assert list(_descending(places, values)) == places[np.argsort(-values, kind="stable")].tolist()
