//! The real gateway in a world of chance: several of them in one process and one virtual time, with clients that retry,
//! a store and an upstream that delay, fail, lose, repeat and execute late, crashes, freezes and drains. Everything is
//! drawn from one seed, and what happened is held against the promises.
//!
//! Reading order: `plan` (what a seed makes of a run), `world`, `clients`, `store`, `upstream`, `link` (connections),
//! `history`, `checker` (the promises), `shrink`, `tests`.
//!
//! A longer run: `SIMULATION_SEEDS=100000 SIMULATION_SEED=random cargo test --lib simulation`.

mod chance;
mod checker;
mod clients;
mod history;
mod link;
mod plan;
mod shrink;
mod store;
mod tests;
mod upstream;
mod world;
