from dataclasses import replace

import pytest
import torch

from fedfuse.audit.attacker_models import distilled, overfitted, probabilities, train_on_labels
from fedfuse.configuration import OptimizerSettings
from fedfuse.data.samples import Samples
from fedfuse.privacy.noise import Noise


@pytest.fixture
def owner(make_clients):
    """A client whose 12 training inputs are noise, with labels that follow from nothing."""
    client = make_clients(names=("wide",), sizes=(12,))[0]
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 1, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (12,), generator=generator)
    return replace(client, data=replace(client.data, train=Samples(inputs, labels)))


def own_confidence(client, parameters):
    train = client.data.train
    return probabilities(client.architecture, parameters, train.inputs).gather(1, train.labels.unsqueeze(1))


def test_the_control_knows_random_labels_by_heart(owner, make_settings):
    settings = make_settings()
    assert own_confidence(owner, overfitted(owner, settings, "auto", 200)).min() > 0.9
    assert own_confidence(owner, overfitted(owner, settings, "auto", 1)).min() < 0.5


def test_nothing_protects_the_control_or_holds_it_back(owner, make_settings):
    settings = make_settings()
    learn = replace(settings.learn, proximal=100.0, rehearse=0.5, epochs=1)
    others = make_settings(protectors=(Noise(5.0),), learn=learn)
    one, other = (overfitted(owner, chosen, "auto", 3) for chosen in (settings, others))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_models_of_one_purpose_and_number_are_the_same_and_others_are_not(owner, make_settings):
    settings, train = make_settings(), owner.data.train

    def trained(purpose, number):
        return train_on_labels(owner.architecture, train, settings.learn, settings, "auto", purpose, number)[
            "head.bias"
        ]

    assert torch.equal(trained("shadow", 1), trained("shadow", 1))
    assert not torch.equal(trained("shadow", 1), trained("shadow", 2))
    assert not torch.equal(trained("shadow", 1), trained("another", 1))


def test_a_distilled_model_answers_as_it_was_taught(owner, make_settings):
    settings, inputs = make_settings(), owner.data.train.inputs
    taught = torch.eye(3).repeat(4, 1)
    training = replace(settings.absorb, epochs=300, optimizer=OptimizerSettings("adam", lr=0.01))
    student = distilled(owner.architecture, inputs, taught, training, settings, "auto", "student")
    assert (probabilities(owner.architecture, student, inputs) - taught).abs().max() < 0.1


def test_probabilities_are_of_the_plain_head(owner, make_settings):
    parameters = overfitted(owner, make_settings(), "auto", 1)
    answers = probabilities(owner.architecture, parameters, owner.data.train.inputs)
    assert answers.dtype == torch.float64
    module = owner.architecture.module().double()
    module.load_state_dict(parameters)
    assert torch.allclose(answers, torch.softmax(module(owner.data.train.inputs).logits, 1))
