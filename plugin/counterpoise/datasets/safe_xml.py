"""XML that may come from anywhere, parsed without expanding entities."""

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat


def parse_xml(path: Path) -> Element:
    """Parse one XML file without expanding entities.

    Entity declarations are refused outright: annotations have no use for them, and nested ones
    grow to any size ("billion laughs"). Expat's own guard lets 8 MiB pass before it stops.

    Raises:
        ValueError: the file cannot be read or is no well-formed XML; the message says why.
    """

    def refuse_entity(*_: object) -> None:
        raise ValueError("it declares an XML entity, which no annotation needs")

    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.EntityDeclHandler = refuse_entity
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)
    except (expat.ExpatError, OSError, LookupError) as error:
        raise ValueError(f"no well-formed XML: {error}") from error
    return builder.close()
