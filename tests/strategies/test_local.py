from fedfuse.knowledge import KnowledgeBatch
from strategies.local import Local


def test_nothing_is_sent_and_nothing_comes_back():
    strategy = Local()
    assert (strategy.sends, strategy.returns, strategy.needs) == (frozenset(), frozenset(), frozenset())
    assert strategy.initial(None) is None
    fused = strategy.fuse(KnowledgeBatch(client_ids=(0, 1), round=1, tensors={}), None)
    assert fused.common is None
    assert fused.personal == {}
    assert fused.relevance is None


def test_nothing_is_asked_of_the_models_and_nothing_is_remembered():
    strategy = Local()
    assert not strategy.one_architecture
    assert not strategy.one_embedding_size
    assert strategy.state_dict() == {}
