"""What a server may know of a client's failure."""

from fedfuse.client.learn import DivergedError
from fedfuse.client.learn_privately import DeltaTooLargeError
from fedfuse.client.phases import MissingStateError, RepeatedRequestError
from fedfuse.client.protect import UnprotectedError
from fedfuse.knowledge import InvalidKnowledgeError
from fedfuse.messages import Failure


def failure_of(error: Exception) -> Failure:
    """Describe an exception without its text, which can hold data or paths."""
    if isinstance(error, DivergedError):
        return Failure("diverged", "training ended in weights that are not finite; a lower learning rate may help")
    if isinstance(error, InvalidKnowledgeError):
        return Failure("refused", "what was received or would be sent is not valid knowledge")
    if isinstance(error, MissingStateError):
        return Failure("no-state", "the state of this client that this message builds on is not there")
    if isinstance(error, UnprotectedError):
        return Failure("unprotected", "the request is for more than this client's guarantee covers")
    if isinstance(error, DeltaTooLargeError):
        return Failure("delta-too-large", "the guarantee's delta is too large for this client's data; lower delta")
    if isinstance(error, RepeatedRequestError):
        return Failure("repeated", "this client has answered another request for this round, or for a later one")
    return Failure("failed", f"{type(error).__name__}; the client's own log has the details")
