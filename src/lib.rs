pub mod identity;
pub mod protocol;
