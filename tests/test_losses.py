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
