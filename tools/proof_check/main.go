// Verifies a bundle of `rollcall audit prove` with the reference implementation of signed notes and transparency logs,
// golang.org/x/mod/sumdb. It shares no code with Rollcall: proof_check BUNDLE KEY
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type bundle struct {
	Entries []struct{ Leaf, Proof string }
}

func main() {
	text, err := os.ReadFile(os.Args[1])
	check(err)
	var found bundle
	check(json.Unmarshal(text, &found))
	verifier, err := note.NewVerifier(strings.TrimSpace(os.Args[2]))
	check(err)
	for _, entry := range found.Entries {
		verify(entry.Leaf, entry.Proof, verifier)
	}
	fmt.Printf("valid: %d rows\n", len(found.Entries))
}

func verify(leaf, text string, verifier note.Verifier) {
	head, signed, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	check(err)
	var proof tlog.RecordProof
	for _, line := range lines[2:] {
		hash, err := tlog.ParseHash(line)
		check(err)
		proof = append(proof, hash)
	}
	opened, err := note.Open([]byte(signed), note.VerifierList(verifier))
	check(err)
	checkpoint := strings.Split(opened.Text, "\n")
	if checkpoint[0] != verifier.Name() {
		check(fmt.Errorf("the checkpoint is of %s", checkpoint[0]))
	}
	size, err := strconv.ParseInt(checkpoint[1], 10, 64)
	check(err)
	root, err := base64.StdEncoding.DecodeString(checkpoint[2])
	check(err)
	check(tlog.CheckRecord(proof, size, tlog.Hash(*(*[32]byte)(root)), index, tlog.RecordHash([]byte(leaf))))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
