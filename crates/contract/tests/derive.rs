//! What `#[derive(Event)]` expands to. What it refuses is in `crates/compile-tests`.

// `EventInTidings` uses the path `::tidings::Event`.
extern crate tidings_contract as tidings;

use serde::{Deserialize, Serialize};
use tidings_contract::Event;
use uuid::Uuid;

#[derive(Serialize, Deserialize, Event)]
#[event(name = "user.created", version = 2, key = id)]
struct UserCreated {
    id: Uuid,
}

#[derive(Serialize, Deserialize, Event)]
#[event(keyless, version = 1, name = "catalogue.rebuilt")]
enum CatalogueRebuilt {
    Whole,
    Partly(u32),
}

#[derive(Serialize, Deserialize, Event)]
#[event(name = "parcel.moved", version = 1, key = r#type)]
struct ParcelMoved {
    r#type: String,
}

#[derive(Serialize, Deserialize, tidings_derive::EventInTidings)]
#[event(name = "user.deleted", version = 1, key = id)]
struct UserDeleted {
    id: u64,
}

#[test]
fn the_attribute_is_the_contract() {
    let id = Uuid::nil();
    assert_eq!(
        (UserCreated::NAME, UserCreated::VERSION),
        ("user.created", 2)
    );
    assert_eq!(UserCreated { id }.key(), Some(id.to_string()));
}

#[test]
fn a_keyless_event_has_no_key() {
    assert_eq!(CatalogueRebuilt::Whole.key(), None);
    assert_eq!(CatalogueRebuilt::Partly(3).key(), None);
}

#[test]
fn a_field_with_a_raw_name_is_a_key() {
    let event = ParcelMoved {
        r#type: "box".into(),
    };
    assert_eq!(event.key().as_deref(), Some("box"));
}

#[test]
fn the_derive_of_tidings_finds_the_trait_there() {
    assert_eq!(UserDeleted { id: 7 }.key().as_deref(), Some("7"));
}

// A key that was written in another macro than the derive must still find `self`.
macro_rules! event {
    ($name:ident, $text:literal, $key:ident) => {
        #[derive(Serialize, Deserialize, Event)]
        #[event(name = $text, version = 1, key = $key)]
        struct $name {
            $key: u64,
        }
    };
    ($name:ident, $text:literal) => {
        #[derive(Serialize, Deserialize, Event)]
        #[event(name = $text, version = 1, key = id)]
        struct $name {
            id: u64,
        }
    };
}

event!(Made, "thing.made", number);
event!(Moved, "thing.moved");

#[test]
fn macros_can_make_events() {
    assert_eq!(Made { number: 7 }.key().as_deref(), Some("7"));
    assert_eq!(Moved { id: 8 }.key().as_deref(), Some("8"));
}

mod shadowed {
    #![allow(dead_code, non_camel_case_types)]
    // Types of the user with these names must not change what the derive refers to.
    struct String;
    struct Option;
    trait ToString {}

    #[derive(serde::Serialize, serde::Deserialize, tidings_contract::Event)]
    #[event(name = "thing.shadowed", version = 1, key = id)]
    pub(super) struct Shadowed {
        pub(super) id: u64,
    }
}

#[test]
fn names_of_the_users_do_not_get_in_the_way() {
    assert_eq!(shadowed::Shadowed { id: 7 }.key().as_deref(), Some("7"));
}
