pub mod cli;
pub mod protocol;
