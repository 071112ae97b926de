import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Undecryptable
from service.runtime.encryption import Cipher

OLD, NEW = b"an older secret of 32 characters!", b"a newer secret of 32 characters!!"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_and_is_not_in_the_token(text: str) -> None:
    token = Cipher([NEW]).encrypt(text)
    assert Cipher([NEW]).decrypt(token) == text
    assert len(text) < 5 or text not in token


def test_the_same_text_makes_another_token_each_time() -> None:
    cipher = Cipher([NEW])
    assert cipher.encrypt("a script") != cipher.encrypt("a script")


def test_an_older_secret_still_decrypts_and_the_first_encrypts() -> None:
    token = Cipher([OLD]).encrypt("a script")
    rotated = Cipher([NEW, OLD])
    assert rotated.decrypt(token) == "a script"
    assert Cipher([NEW]).decrypt(rotated.encrypt("another")) == "another"


def test_another_secret_and_a_changed_token_are_refused_without_a_word_of_either() -> None:
    token = Cipher([OLD]).encrypt("a script")
    for cipher, given_ in ((Cipher([NEW]), token), (Cipher([OLD]), token[:-2] + "AA"), (Cipher([OLD]), "nonsense")):
        with pytest.raises(Undecryptable) as caught:
            cipher.decrypt(given_)
        assert str(caught.value) == "No callback secret decrypts it."
    assert "secret" not in repr(Cipher([OLD]))
