"""The delivery engine: lease a lane, drain it, release it."""
