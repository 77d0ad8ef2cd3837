import pytest
import torch

from fedfuse import catalogue
from fedfuse.client.fit import Term, initial_objective_state, loss_of_step
from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.models.outputs import Outputs

BATCH, CLASSES, WIDTH = 6, 4, 5
KNOWN_NEEDS = {"labels", "soft_labels", "prototypes", "class_logits", "generated", "relations"}
KNOWN_NEEDS |= {"own_soft_labels", "known_classes"}
MASKS = {"prototypes": "prototype_mask", "class_logits": "class_logits_mask"}
OF_RELATIONS = ("relations", "positions", "relations_known")


@pytest.fixture(params=catalogue.names("objective", catalogue.folders()))
def objective(request):
    """Every objective that is shipped, as its file configures it."""
    return build(compose([f"objective={request.param}"]).objective, "objective")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_outputs(seed=0):
    return Outputs(random(BATCH, CLASSES, seed=seed), random(BATCH, WIDTH, seed=seed + 1))


def make_batch(seed=0):
    return {
        "inputs": random(BATCH, 2, seed=seed),
        "labels": torch.arange(BATCH) % CLASSES,
        "soft_labels": torch.softmax(random(BATCH, CLASSES, seed=seed + 2), dim=1),
        "prototypes": random(CLASSES, WIDTH, seed=seed + 3),
        "prototype_mask": torch.tensor([True, True, True, False]),
        "class_logits": random(CLASSES, CLASSES, seed=seed + 4),
        "class_logits_mask": torch.tensor([True, True, True, False]),
        "relations": torch.cdist(random(BATCH, WIDTH, seed=seed + 5), random(9, WIDTH, seed=seed + 5)),
        "positions": torch.arange(BATCH),
        "relations_known": torch.tensor([True, True, True, True, False, True]),
        "own_soft_labels": torch.softmax(random(BATCH, CLASSES, seed=seed + 6), dim=1),
        "known_classes": torch.tensor([True, False, True, True]),
    }


def loss_and_gradients(objective, outputs, batch, mask):
    """The loss of a step and its gradients by logits and features, as a runner computes them."""
    leaves = Outputs(outputs.logits.clone().requires_grad_(), outputs.features.clone().requires_grad_())
    terms = [Term("only", objective)]
    state = initial_objective_state(terms)
    loss, _ = loss_of_step(lambda inputs: leaves, None, terms, {"only": batch}, {"only": mask}, state)
    loss.backward()
    given = (leaves.logits, leaves.features)
    return loss.detach(), [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in given]


def test_every_shipped_objective_is_tested():
    assert {"cross_entropy", "kd", "prototype", "class_logits", "hyper_knowledge", "generated"} <= set(
        catalogue.names("objective", catalogue.folders())
    )


def test_needs_are_ones_that_a_batch_can_hold_and_suffice(objective):
    assert objective.needs <= KNOWN_NEEDS
    needed = {"inputs", *objective.needs} | {MASKS[name] for name in objective.needs & set(MASKS)}
    needed |= set(OF_RELATIONS) if "relations" in objective.needs else set()
    batch = {name: tensor for name, tensor in make_batch().items() if name in needed}
    objective(make_outputs(), batch, torch.ones(BATCH, dtype=torch.bool), objective.initial_state())


def test_a_loss_is_one_number_a_sample_or_a_client_and_state_keeps_its_names(objective):
    state = objective.initial_state()
    losses, next_state = objective(make_outputs(), make_batch(), torch.ones(BATCH, dtype=torch.bool), state)
    assert losses.shape in ((), (BATCH,))
    assert losses.dtype == torch.float64
    assert (losses >= 0).all()
    assert set(next_state) == set(state)


def test_padding_rows_never_matter(objective):
    outputs, batch = make_outputs(), make_batch()
    mask = torch.tensor([True, True, False, True, False, True])
    loss, gradients = loss_and_gradients(objective, outputs, batch, mask)

    garbage = Outputs(outputs.logits.clone(), outputs.features.clone())
    garbage.logits[~mask] = 1e3 * random(2, CLASSES, seed=7)
    garbage.features[~mask] = 1e3
    other = {name: tensor.clone() for name, tensor in batch.items()}
    other["labels"][~mask] = 3
    other["soft_labels"][~mask] = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    other_loss, other_gradients = loss_and_gradients(objective, garbage, other, mask)
    torch.testing.assert_close(other_loss, loss, rtol=1e-12, atol=0)
    for gradient, other_gradient in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(other_gradient, gradient, rtol=1e-12, atol=1e-15)
        assert (gradient[~mask] == 0).all()


def test_a_masked_batch_is_the_same_as_a_smaller_one(objective):
    outputs, batch = make_outputs(), make_batch()
    mask = torch.tensor([True, True, False, True, False, True])
    loss, _ = loss_and_gradients(objective, outputs, batch, mask)
    of_samples = ("inputs", "labels", "soft_labels", "own_soft_labels", *OF_RELATIONS)
    smaller = {name: batch[name][mask] for name in of_samples}
    smaller |= {name: batch[name] for name in ("known_classes", *MASKS, *MASKS.values())}
    selected = Outputs(outputs.logits[mask], outputs.features[mask])
    expected, _ = loss_and_gradients(objective, selected, smaller, torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_a_batch_of_nothing_but_padding_costs_nothing(objective):
    loss, gradients = loss_and_gradients(objective, make_outputs(), make_batch(), torch.zeros(BATCH, dtype=torch.bool))
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients)


def test_many_clients_at_once_give_what_each_gives_alone(objective):
    outputs, batches = [make_outputs(seed) for seed in (0, 50)], [make_batch(seed) for seed in (0, 50)]
    masks = [torch.ones(BATCH, dtype=torch.bool), torch.arange(BATCH) < 4]
    alone = [
        objective(own, batch, mask, objective.initial_state())[0]
        for own, batch, mask in zip(outputs, batches, masks, strict=True)
    ]

    def loss_of(logits, features, batch, mask):
        return objective(Outputs(logits, features), batch, mask, objective.initial_state())[0]

    together = torch.vmap(loss_of)(
        torch.stack([own.logits for own in outputs]),
        torch.stack([own.features for own in outputs]),
        {name: torch.stack([batch[name] for batch in batches]) for name in batches[0]},
        torch.stack(masks),
    )
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-12, atol=1e-15)


def test_an_objective_cannot_be_changed(objective):
    with pytest.raises(AttributeError):
        objective.temperature = 5.0
