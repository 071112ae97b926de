"""Signed notes, checkpoints and proofs: others read ours, we read theirs, and nothing garbled is believed."""

import base64
from contextlib import suppress

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tlog_scales import signing, tlog

from service.audit.note import Checkpoint, Note, Proof, Signer, VerifierKey
from service.errors import ProofInvalid

ORIGIN = "example.com/log"
OURS = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))
CHECKPOINT = Checkpoint(ORIGIN, 123, b"r" * 32)


def test_others_verify_our_checkpoint_with_our_key():
    theirs = tlog.Checkpoint.from_text(CHECKPOINT.signed([OTHER, OURS]))
    assert (theirs.origin, theirs.size, theirs.root_hash) == (ORIGIN, 123, b"r" * 32)
    for signer in (OURS, OTHER):
        theirs.verify(signing.Vkey.from_string(str(signer.key)))
    with pytest.raises(InvalidSignature):
        tlog.Checkpoint.from_text(CHECKPOINT.signed([OURS]).replace("\n123\n", "\n124\n")).verify(
            signing.Vkey.from_string(str(OURS.key))
        )


def test_we_verify_a_checkpoint_of_others():
    signer = signing.PlainEd25519Signer(ORIGIN, bytes(range(32)))
    note = Note.parse(tlog.Checkpoint.make_signed(ORIGIN, 123, b"r" * 32, [signer]).serialize())
    assert note.checkpoint == CHECKPOINT
    assert note.signed_by([OTHER.key, OURS.key]) == [OURS.key]


def test_the_example_of_the_specification_is_read_and_its_key_verifies():
    # c2sp.org/signed-note and the documentation of Go's sumdb/note give this key and this note.
    key = VerifierKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    signature = base64.b64decode(
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    )
    assert signature[:4] == key.id
    assert key.verifies(text, signature[4:])
    assert not key.verifies(text + " ", signature[4:])


def test_a_wrong_signature_in_the_name_of_a_known_key_is_refused_and_one_of_a_stranger_is_passed_over():
    note = CHECKPOINT.signed([OTHER])
    assert Note.parse(note).signed_by([OURS.key]) == []
    forged = CHECKPOINT.signed([OURS]).replace("\n123\n", "\n124\n")
    with pytest.raises(ProofInvalid, match="signature by"):
        Note.parse(forged).signed_by([OURS.key])


def test_a_key_is_read_as_it_was_written_and_no_other_text_is_a_key():
    assert VerifierKey.parse(f" {OURS.key}\n") == OURS.key
    for wrong in ("", "name", "name+00000000+", str(OURS.key)[:-4], str(OURS.key).replace("example", "exomple")):
        with pytest.raises(ProofInvalid):
            VerifierKey.parse(wrong)


@given(st.integers(0, 10**9), st.lists(st.binary(min_size=32, max_size=32), max_size=40))
def test_a_proof_is_read_as_it_was_written(index, path):
    proof = Proof(index, tuple(path), CHECKPOINT.signed([OURS]))
    assert Proof.parse(str(proof)) == proof
    head, _, rest = str(proof).partition("\n")
    assert Proof.parse(f"{head}\nextra AAAA\n{rest}") == proof


NOTE = CHECKPOINT.signed([OURS, OTHER])
PROOF = str(Proof(7, (b"a" * 32, b"b" * 32), NOTE))


@given(st.integers(0, len(PROOF) - 1), st.characters(codec="utf-8"))
def test_a_garbled_proof_is_refused_or_says_the_same_or_is_not_believed(place, letter):
    garbled = PROOF[:place] + letter + PROOF[place + 1 :]
    try:
        read = Proof.parse(garbled)
        note = Note.parse(read.note)
        assert note.signed_by([OURS.key]) == [OURS.key] or read.note != NOTE
        assert note.checkpoint == CHECKPOINT or note.signed_by([OURS.key, OTHER.key]) == []
    except ProofInvalid:
        pass


@given(st.integers(0, len(NOTE) - 1))
def test_a_note_that_was_cut_off_is_not_believed_to_be_signed_by_all(end):
    with suppress(ProofInvalid):
        assert OTHER.key not in Note.parse(NOTE[:end]).signed_by([OTHER.key])
