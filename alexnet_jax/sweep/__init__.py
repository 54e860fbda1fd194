"""Many runs of one recipe: what varies, what to try next, where trials run, and the results."""
