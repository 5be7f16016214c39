"""Pages for whoever uses the relay, below /me/ and /team/: what needs more than accounts knows."""
