"""What a server asks for before it answers: ``WWW-Authenticate`` (RFC 7235)."""

from __future__ import annotations


def challenges(header: str) -> dict[str, dict[str, str]]:
    """``WWW-Authenticate`` by scheme in lower case: RFC 7235's list of ``Scheme name="value", …``."""
    found: dict[str, dict[str, str]] = {}
    scheme = ""
    position = 0
    while position < len(header):
        while position < len(header) and header[position] in " ,\t":
            position += 1
        begin = position
        while position < len(header) and header[position] not in ' ,="\t':
            position += 1
        word = header[begin:position]
        if not word:
            position += 1
            continue
        if position < len(header) and header[position] == "=":
            position += 1
            if position < len(header) and header[position] == '"':
                value, position = _quoted(header, position + 1)
            else:
                begin = position
                while position < len(header) and header[position] not in " ,\t":
                    position += 1
                value = header[begin:position]
            if scheme:
                found[scheme].setdefault(word.lower(), value)
        else:
            scheme = word.lower()
            found.setdefault(scheme, {})
    return found


def _quoted(text: str, position: int) -> tuple[str, int]:
    out = []
    while position < len(text) and text[position] != '"':
        if text[position] == "\\" and position + 1 < len(text):
            position += 1
        out.append(text[position])
        position += 1
    return "".join(out), position + 1
