"""Text from others, made safe to show: what is not printable (C0, C1, bidi controls, line breaks) becomes an escape."""


def escape(text: str) -> str:
    r"""The text with `\x1b`, `\u202e` and the like in place of every unprintable character."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(ord(one)) for one in text)


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
