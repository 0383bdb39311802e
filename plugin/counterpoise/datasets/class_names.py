"""Lists of class names, wherever they are written."""

from reprlib import repr  # bounded: YAML aliases can make a value of any size

from counterpoise.errors import UserError
from counterpoise.utils.text import printable


def check_class_names(values: object, where: str) -> tuple[str, ...]:
    """Return class names stripped, as text.

    Raises:
        UserError: not a list of names, or a name that is empty, twice there, or read by YAML as
            something other than text or a number; the message begins with ``where``.
    """
    if not isinstance(values, list | tuple):
        raise UserError(f"{where} must be a list of class names, not {repr(values)}")
    names: list[str] = []
    for value in values:
        # YAML reads an unquoted `no` or `on` as a boolean: "False" would be a silent rename.
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UserError(f"{where} holds {repr(value)}, which is not a name: put it in quotes")
        name = str(value).strip()
        if not name:
            raise UserError(f"{where} holds an empty class name: name or remove it")
        if printable(name, lines=False) != name:
            raise UserError(
                f"{where} holds the class name '{printable(name, lines=False)}', in which a "
                "character is not printable: write it without"
            )
        if name in names:
            raise UserError(f"{where} holds the class name '{name}' twice: remove one")
        names.append(name)
    return tuple(names)
