//! The engine: decides whom to pull what from, what to stage, join and announce: `handle(Input, now) -> Effects`.
