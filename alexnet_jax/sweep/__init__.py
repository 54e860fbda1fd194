"""Many runs of one recipe: what varies, which to try next, where they run, what came out."""
