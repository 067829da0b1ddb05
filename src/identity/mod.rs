//! Who is asking for what: the key, the scope and the fingerprint of a request, and the keyed hashes that stand
//! for them in a store.
//!
//! Pure. It knows no IO, no clock and no randomness: headers and bodies, the id key and nonces are arguments.
//!
//! Reading order: [`key`] and [`scope`] find what the client sent; [`FingerprintRules`] say what makes two requests
//! the same, with [`json`] for bodies that count by value; [`Identifier`] turns all of it into record ids,
//! fingerprints and sealed references.

mod fingerprint;
mod identifier;
mod issued;
pub mod json;
pub mod key;
mod keyed;
pub mod reference;
pub mod scope;

pub use fingerprint::{BodyRule, FingerprintRules, FingerprintUnderWay, RequestParts};
pub use identifier::{IdKeyBytes, Identifier, KeyRef};
pub use issued::RANDOM_LEN as ISSUED_RANDOM_LEN;
pub use json::{BadJsonPointer, JsonPointer};
pub use key::{Key, KeyFormat, KeyInvalid, KeySource};
pub use reference::{Reference, SealBroken};
pub use scope::{Scope, ScopeMissing, ScopeSource};
