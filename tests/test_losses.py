import pytest
import torch

from mtive_nb.model.batches import Collator, RecordDataset
from mtive_nb.model.losses import noise_robust_loss


def test_equals_the_models_own_loss_at_beta_0(tiny, records, photo_folder):
    data = RecordDataset(records)
    batch = Collator(tiny.processor)([data[i] for i in range(6)])
    own = tiny.model(**batch)
    ours = noise_robust_loss(own.logits, batch["labels"])
    assert torch.allclose(ours, own.loss, atol=1e-6)


def test_beta_1_is_the_cross_entropy_to_the_uniform_distribution():
    logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    labels[:, :2] = -100
    log_p = torch.log_softmax(logits, -1)
    wanted = -torch.stack([log_p[b, t - 1].sum() / 7 for b in range(2) for t in range(2, 5)]).mean()
    assert torch.allclose(noise_robust_loss(logits, labels, beta=1.0), wanted)


def test_between_the_two_it_is_torch_label_smoothing():
    logits, labels = torch.randn(3, 6, 11), torch.randint(0, 11, (3, 6))
    wanted = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, 11), labels[:, 1:].reshape(-1), label_smoothing=0.2
    )
    assert torch.allclose(noise_robust_loss(logits, labels, beta=0.2), wanted)


def test_prompt_tokens_have_no_gradient():
    logits, labels = torch.randn(1, 6, 5, requires_grad=True), torch.tensor([[-100, -100, -100, 2, 1, -100]])
    noise_robust_loss(logits, labels, beta=0.1).backward()
    moved = logits.grad.abs().sum(-1)[0] > 0
    assert moved.tolist() == [False, False, True, True, False, False]  # token t's logits answer for label t + 1


def test_beta_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"beta: found 1\.5"):
        noise_robust_loss(torch.randn(1, 2, 3), torch.zeros(1, 2, dtype=torch.long), beta=1.5)


def test_a_balance_by_record_is_the_mean_of_each_records_mean():
    """Against a loop over records and tokens, in which the longest answer has ten times the tokens of the shortest."""
    logits, labels = torch.randn(4, 12, 9), torch.randint(0, 9, (4, 12))
    for row, tokens in enumerate((10, 1, 0, 3)):  # the third record has no answer and does not count
        labels[row, : 12 - tokens] = -100
    log_p, beta, means = torch.log_softmax(logits, -1), 0.3, []
    for row, tokens in enumerate((10, 1, 0, 3)):
        losses = [
            -(1 - beta) * log_p[row, t - 1, labels[row, t]] - beta * log_p[row, t - 1].sum() / 9
            for t in range(12 - tokens, 12)
        ]
        means += [sum(losses) / tokens] if tokens else []
    by_hand = sum(means) / 3
    ours = noise_robust_loss(logits, labels, beta=beta, balance="record")
    assert torch.allclose(ours, by_hand) and not torch.allclose(ours, noise_robust_loss(logits, labels, beta=beta))
    # In parts of an accumulation step, whose records `num_items` counts, the parts add up to the whole.
    parts = [
        noise_robust_loss(logits[b], labels[b], beta=beta, balance="record", num_items=3) for b in ([0], [1, 2, 3])
    ]
    assert torch.allclose(sum(parts), ours)


def test_answers_of_one_length_weigh_the_same_in_either_balance():
    logits, labels = torch.randn(3, 6, 5), torch.randint(0, 5, (3, 6))
    labels[:, :4] = -100
    assert torch.allclose(noise_robust_loss(logits, labels, balance="record"), noise_robust_loss(logits, labels))


@pytest.mark.parametrize("balance", ["token", "record"])
def test_a_single_answer_token_counts_whole_and_none_at_all_is_no_loss(balance):
    logits, labels = torch.randn(1, 3, 5), torch.tensor([[-100, -100, 2]])
    alone = noise_robust_loss(logits, labels, balance=balance)
    assert torch.allclose(alone, -torch.log_softmax(logits[0, 1], -1)[2])
    assert noise_robust_loss(logits, torch.full_like(labels, -100), balance=balance) == 0


def test_an_unknown_balance_is_refused():
    with pytest.raises(ValueError, match="balance: found 'answer', expected token or record"):
        noise_robust_loss(torch.randn(1, 2, 3), torch.zeros(1, 2, dtype=torch.long), balance="answer")
