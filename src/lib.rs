pub mod config;
pub mod identity;
pub mod protocol;
pub mod route;
pub mod server;
pub mod upstream;
