//! `#[derive(Event)]` for Tidings: expands one attribute to `impl Event`. Never a runtime.
//!
//! Use it through `tidings` or `tidings-contract`, which export it with the trait. There are two derives because a
//! macro cannot find out which of the two crates its user depends on.

mod event;
mod name;

use proc_macro::TokenStream;
use quote::quote;

/// Implements `Event` for a type: `#[event(name = "user.created", version = 1, key = id)]`, or `keyless` in place of
/// `key`. Name, version and key are checked at compile time.
///
/// * `name`: two or more lower-case words joined by dots, at most 200 bytes.
/// * `version`: of the payload's shape, a whole number from 1 to 2147483647.
/// * `key`: a field that implements `Display`; events of one key are kept in order.
/// * `keyless`: the events need no order.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    derive(input, &quote!(::tidings_contract))
}

/// The same derive for crates that depend on `tidings` alone, which exports it as `Event`.
#[proc_macro_derive(EventInTidings, attributes(event))]
pub fn derive_event_in_tidings(input: TokenStream) -> TokenStream {
    derive(input, &quote!(::tidings))
}

fn derive(input: TokenStream, home: &proc_macro2::TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    event::expand(&input, home)
        .unwrap_or_else(|error| error.to_compile_error())
        .into()
}
