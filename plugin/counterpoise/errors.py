"""What the program says when the user's input cannot be used."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input or configuration, put in one sentence: which file, key or value, and how to fix it.

    The command line prints the sentence without a traceback and ends with exit code 2.
    """


class RunFailed(RuntimeError):
    """A run that cannot go on through no fault of its input, put in one sentence.

    The command line prints the sentence without a traceback and ends with exit code 1.
    """


#: Words that a message lists; of more it names the closest ones.
LISTED = 30


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a phrase that names the closest known word and then the known words.

    Args:
        word: what the user wrote.
        known: the valid words, at least one.

    Returns:
        ``"did you mean 'focal'? (known: ...)"``, or ``"known: ..."`` when nothing is close.
    """
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    if not close:  # a wrong case or a lost prefix is far for difflib, near for a reader
        close = [k for k in known if k.lower() == str(word).lower()]
    listed = ", ".join(known)
    if len(known) > LISTED:
        nearest = difflib.get_close_matches(str(word), known, n=8, cutoff=0.0)
        listed = f"{', '.join(nearest)} and {len(known) - len(nearest)} more"
    return f"did you mean '{close[0]}'? (known: {listed})" if close else f"known: {listed}"


#: End of a message about a name that a file of the user's may register.
OF_ONES_OWN = "; one of your own needs --import with the Python file that registers it"


def check_name(key: str, name: str, known: Iterable[str], more: str = "") -> None:
    """Refuse a name that a config key does not take.

    Args:
        key: of the config.
        name: its value.
        known: the names that it takes, at least one.
        more: end of the message.

    Raises:
        UserError: it takes no such name; the message holds the known and the nearest name.
    """
    known = list(known)
    if name not in known:
        raise UserError(f"{key} is '{name}', {did_you_mean(name, known)}{more}")
