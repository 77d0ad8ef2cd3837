"""Answers of honest and of hostile clients, for the tests of the strategies that withstand some."""

import torch

from fedfuse.knowledge import KnowledgeBatch

NUM_CLASSES = 5


def batch(soft_labels, mask=None):
    number, samples, _ = soft_labels.shape
    mask = torch.ones(number, samples, dtype=torch.bool) if mask is None else mask
    return KnowledgeBatch(tuple(range(number)), 1, {"soft_labels": {"soft_labels": soft_labels, "mask": mask}})


def consensus(strategy, soft_labels, mask=None):
    return strategy.fuse(batch(soft_labels, mask), None).common["soft_labels"]["soft_labels"]


def honest_answers(number=20, samples=200, spread=0.1):
    """Answers that differ from sample to sample, and a little from client to client."""
    generator = torch.Generator().manual_seed(0)
    common = 3 * torch.randn(1, samples, NUM_CLASSES, generator=generator, dtype=torch.float64)
    own = spread * torch.randn(number, samples, NUM_CLASSES, generator=generator, dtype=torch.float64)
    return torch.softmax(common + own, dim=2)


def label_flip(answers):
    """Each class is called by the next one's name."""
    return answers.roll(1, dims=2)


def uniform_noise(answers):
    """Any distribution, all alike probable."""
    generator = torch.Generator().manual_seed(1)
    exponential = -torch.log(torch.rand(answers.shape, generator=generator, dtype=answers.dtype))
    return exponential / exponential.sum(2, keepdim=True)


def colluding_constant(answers):
    """All say the same class, whatever the sample."""
    return torch.tensor([0.96, 0.01, 0.01, 0.01, 0.01], dtype=answers.dtype).expand_as(answers)


ATTACKS = (label_flip, uniform_noise, colluding_constant)


def attacked(honest, number, attack):
    """The same answers, those of the first clients hostile."""
    return torch.cat([attack(honest[:number]), honest[number:]])


def error(strategy, answers, reference):
    """How far the fused labels are from the mean of honest answers: the sum over classes, of each sample ``[M]``."""
    return (consensus(strategy, answers) - reference.mean(0)).abs().sum(1)


def random_answers(seed, number, samples=6, dtype=torch.float64):
    """Answers without any agreement, and a mask: the first sample is everybody's, the second nobody's."""
    generator = torch.Generator().manual_seed(seed)
    soft_labels = torch.softmax(2 * torch.randn(number, samples, 4, generator=generator, dtype=dtype), dim=2)
    mask = torch.rand(number, samples, generator=generator) < 0.7
    mask[:, 0], mask[:, 1] = True, False
    return soft_labels, mask


def assert_invariants(strategy, seed, number):
    """Check what holds for every consensus: on the simplex, whatever the order, and by what was answered only."""
    soft_labels, mask = random_answers(seed, number)
    blank = soft_labels * mask.unsqueeze(2)
    fused = strategy.fuse(batch(blank, mask), None)
    tensors = fused.common["soft_labels"]
    assert dict(fused.personal) == {}
    assert torch.equal(tensors["mask"], mask.any(0))
    assert (tensors["soft_labels"] >= 0).all()
    torch.testing.assert_close(tensors["soft_labels"].sum(1), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(tensors["soft_labels"][1], torch.full((4,), 0.25, dtype=torch.float64))

    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    permuted = consensus(strategy, blank[order], mask[order])
    torch.testing.assert_close(permuted, tensors["soft_labels"], rtol=0, atol=1e-9)

    garbage = torch.where(mask.unsqueeze(2), soft_labels, 1e6 * (soft_labels - 0.2))
    assert torch.equal(consensus(strategy, garbage, mask), tensors["soft_labels"])

    for sample in mask.any(0).nonzero().flatten().tolist():
        alone = consensus(strategy, soft_labels[mask[:, sample], sample : sample + 1])
        torch.testing.assert_close(alone[0], tensors["soft_labels"][sample], rtol=0, atol=1e-9)

    assert consensus(strategy, blank.float(), mask).dtype == torch.float32
