"""What stores of clients' states hold, for the tests that compare them."""

from fedfuse.client.state import ABSORBED, SHARED, Generation
from fedfuse.client.state_file import StateFile


def states_of(store, client_ids):
    """All generations of these clients, plain: by client id, a list of round, phase and state."""
    found = {}
    for client_id in client_ids:
        newest = store.newest(client_id)
        moments = [(round, phase) for round in range(newest.round + 1 if newest else 0) for phase in (SHARED, ABSORBED)]
        states = [(*moment, store.load(client_id, Generation(*moment))) for moment in moments]
        generations = [(round, phase, state.to_dict()) for round, phase, state in states if state is not None]
        if generations:
            found[client_id] = generations
    return found


def states_in(path, client_ids):
    """The same of a file, which is only read."""
    file = StateFile(path)
    try:
        return states_of(file, client_ids)
    finally:
        file.close()
