//! Expands `#[event(...)]` to `impl Event`. It owns the attribute's grammar and its error messages, never the rules of
//! names: see `name`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Attribute, DeriveInput, Error, Ident, LitInt, LitStr, Result, meta::ParseNestedMeta};

use crate::name;

/// The value of `tidings_contract::Envelope::MAX_VERSION`, which this crate cannot depend on.
const MAX_VERSION: u32 = i32::MAX.unsigned_abs();
const USAGE: &str =
    "say what the event is: #[event(name = \"user.created\", version = 1, key = id)]";

/// Returns the impl for `input`. `home` is the crate that exports the trait.
pub(crate) fn expand(input: &DeriveInput, home: &TokenStream) -> Result<TokenStream> {
    let Attributes { name, version, key } = Attributes::of(input)?;
    if let Some(parameter) = input.generics.params.first() {
        return Err(Error::new_spanned(
            parameter,
            "an event has no generic parameters: its JSON is a contract",
        ));
    }
    let key = key_expression(&key, input)?;
    let ident = &input.ident;
    Ok(quote! {
        #[automatically_derived]
        impl #home::Event for #ident {
            const NAME: &'static str = #name;
            const VERSION: u32 = #version;

            fn key(&self) -> ::core::option::Option<::std::string::String> {
                #key
            }
        }
    })
}

struct Attributes {
    name: LitStr,
    version: u32,
    key: Key,
}

enum Key {
    Field(Ident),
    Keyless,
}

impl Attributes {
    fn of(input: &DeriveInput) -> Result<Self> {
        let mut all = input.attrs.iter().filter(|a| a.path().is_ident("event"));
        let Some(attribute) = all.next() else {
            return Err(Error::new(input.ident.span(), USAGE));
        };
        if let Some(second) = all.next() {
            return Err(Error::new_spanned(second, "`event` is given twice"));
        }
        Self::parse(attribute)
    }

    fn parse(attribute: &Attribute) -> Result<Self> {
        let (mut name, mut version, mut key) = (None, None, None);
        attribute.parse_nested_meta(|meta| match &meta.path {
            path if path.is_ident("name") => once(&mut name, &meta, checked_name),
            path if path.is_ident("version") => once(&mut version, &meta, checked_version),
            path if path.is_ident("key") => once(&mut key, &meta, key_field),
            path if path.is_ident("keyless") => once(&mut key, &meta, |_| Ok(Key::Keyless)),
            _ => Err(meta.error("an event has `name`, `version`, and `key` or `keyless`")),
        })?;
        let missing =
            |what: &str| Error::new_spanned(attribute, format!("{what} is missing; {USAGE}"));
        Ok(Self {
            name: name.ok_or_else(|| missing("`name`"))?,
            version: version.ok_or_else(|| missing("`version`"))?,
            key: key.ok_or_else(|| missing("`key` (or `keyless`, when no order is wanted)"))?,
        })
    }
}

fn once<T>(
    slot: &mut Option<T>,
    meta: &ParseNestedMeta<'_>,
    parse: impl FnOnce(&ParseNestedMeta<'_>) -> Result<T>,
) -> Result<()> {
    if slot.is_some() {
        return Err(meta.error(
            "given twice: an event has one `name`, one `version`, and one `key` or `keyless`",
        ));
    }
    *slot = Some(parse(meta)?);
    Ok(())
}

fn checked_name(meta: &ParseNestedMeta<'_>) -> Result<LitStr> {
    let literal: LitStr = meta.value()?.parse()?;
    match name::fault(&literal.value()) {
        Some(fault) => Err(Error::new(literal.span(), fault)),
        None => Ok(literal),
    }
}

fn checked_version(meta: &ParseNestedMeta<'_>) -> Result<u32> {
    let literal: LitInt = meta.value()?.parse()?;
    match literal.base10_parse() {
        Ok(version @ 1..=MAX_VERSION) => Ok(version),
        _ => Err(Error::new(
            literal.span(),
            "a version is a whole number from 1 to 2147483647",
        )),
    }
}

fn key_field(meta: &ParseNestedMeta<'_>) -> Result<Key> {
    Ok(Key::Field(meta.value()?.parse()?))
}

fn key_expression(key: &Key, input: &DeriveInput) -> Result<TokenStream> {
    let field = match key {
        Key::Keyless => return Ok(quote!(::core::option::Option::None)),
        Key::Field(field) => field,
    };
    let syn::Data::Struct(data) = &input.data else {
        return Err(Error::new(
            field.span(),
            "`key` names a field of a struct: for an enum, say `keyless` or make it a field of a struct",
        ));
    };
    let known: Vec<_> = data
        .fields
        .iter()
        .filter_map(|f| f.ident.as_ref())
        .collect();
    if !known.contains(&field) {
        return Err(Error::new(field.span(), no_such_field(field, &known)));
    }
    // A key field without `Display` is reported at the attribute. Only the location is taken from the field's span: the
    // hygiene of that span would keep `self` from resolving when another macro wrote the attribute.
    let span = Span::call_site().located_at(field.span());
    let display = quote_spanned!(span=> ::std::string::ToString::to_string(&self.#field));
    Ok(quote!(::core::option::Option::Some(#display)))
}

fn no_such_field(field: &Ident, known: &[&Ident]) -> String {
    let known: Vec<String> = known.iter().map(|ident| format!("`{ident}`")).collect();
    match known.as_slice() {
        [] => format!("there is no field `{field}`: this type has no named fields"),
        _ => format!(
            "there is no field `{field}`: known are {}",
            known.join(", ")
        ),
    }
}
