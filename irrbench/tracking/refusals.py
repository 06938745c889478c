"""What a store's answer means: try again soon, later, or never."""

from __future__ import annotations

import errno

from irrbench.tracking.store import StoreError

WAIT_CODES = frozenset({401, 403, 408, 409, 429})  # refusals that may end although the same request is sent again
FINAL_CODES = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"})
FINAL_CAUSES = frozenset({"DataError", "IntegrityError", "OverflowError", "UnicodeEncodeError"})  # of a database
FINAL_STATUS = frozenset({400, 411, 413, 414, 422})  # among them: too large


class UnknownCallError(LookupError):
    """A request of a later version; that version can send it."""


class RunNotCreatedError(RuntimeError):
    """The run of a request has not been created yet."""


class PartlyRefusedError(ValueError):
    """The store has taken all of a request but some entries, which it never will."""


def is_final(error: BaseException) -> bool:
    """Whether a store, or the call itself, will say no to the same request for ever."""
    code = getattr(error, "error_code", None)  # of MLflow; a proxy's answer gets other codes
    if code is not None:
        return code in FINAL_CODES or type(error.__cause__).__name__ in FINAL_CAUSES
    answer = getattr(error, "response", None)  # of an artifact store behind HTTP
    if answer is not None:
        return getattr(answer, "status_code", 0) in FINAL_STATUS
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return True
    own = isinstance(error, LookupError | TypeError | ValueError) and not isinstance(error, OSError)
    return own and error.__cause__ is None and not isinstance(error, StoreError | UnknownCallError)


def is_refusal(error: BaseException) -> bool:
    """Whether a store has understood and refused, so that asking again at once is of no use; else it may work soon."""
    if is_final(error) or isinstance(error, UnknownCallError):
        return True
    status = getattr(error, "get_http_status_code", None)
    return status is not None and 400 <= status() < 500 and status() not in WAIT_CODES
