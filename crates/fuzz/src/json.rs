//! Nearly valid JSON: mutations of the trees of seeds. Never calls a parser.

use serde_json::{Map, Value, json};

use super::{mutation::mutate_text, random::Random};

/// The size to which a part is repeated, in bytes: the shorter and the longer input.
const REPEATED: [usize; 2] = [32 * 1024, 128 * 1024];

/// Returns a seed in which a few nodes are replaced.
pub(super) fn mutated(random: &mut Random, seeds: &[Value]) -> Vec<u8> {
    let mut tree = random.one_of(seeds).clone();
    for _ in 0..=random.below(3) {
        let other = random.one_of(seeds);
        let other = some_node(random, other).clone();
        let node = some_place(random, &mut tree);
        mutate(random, node, other);
    }
    let text = tree.to_string();
    match tree {
        Value::Object(members) if random.below(16) == 0 => twice(random, &text, &members),
        _ => text.into_bytes(),
    }
}

fn mutate(random: &mut Random, node: &mut Value, other: Value) {
    match (random.below(8), &mut *node) {
        (0, Value::Object(members)) => {
            let name = some_name(random, members);
            members.remove(&name);
        }
        (0 | 1, Value::Array(items)) if !items.is_empty() => {
            let at = random.below(items.len());
            items.insert(at, other);
        }
        (1, Value::Object(members)) => {
            let mut name = some_name(random, members);
            mutate_text(random, &mut name);
            members.insert(name, other);
        }
        (2, Value::Array(items)) if !items.is_empty() => {
            items.remove(random.below(items.len()));
        }
        (0..4, Value::String(text)) => mutate_text(random, text),
        (0..4, Value::Number(number)) => *node = near(random, number.as_u64().unwrap_or(0)),
        (4 | 5, _) => *node = odd(random),
        _ => *node = other,
    }
}

/// Returns a bound or the given number, or a neighbour of either.
fn near(random: &mut Random, number: u64) -> Value {
    let bounds = [0, 1, 1 << 31, 1 << 32, 1 << 53, 1 << 63, u64::MAX, number];
    let bound = *random.one_of(&bounds);
    match random.below(3) {
        0 => json!(bound),
        1 => json!(bound.wrapping_sub(1)),
        _ => json!(bound.wrapping_add(1)),
    }
}

/// Values that parsers often handle wrongly.
fn odd(random: &mut Random) -> Value {
    match random.below(12) {
        0 => Value::Null,
        1 => json!(u64::MAX),
        2 => json!(i64::MIN),
        3 => json!(1e300),
        4 => json!(random.next().cast_signed()),
        5 => json!(""),
        6 => json!("\u{0}\u{202e}\r\n"),
        7 => json!("x".repeat(random.below(600))),
        8 => json!(["+262142-12-31T23:59:59Z", u64::MAX]),
        9 => json!("+262142-12-31T23:59:59.999999999Z"),
        10 => json!("-262143-01-01T00:00:00Z"),
        _ => json!({}),
    }
}

/// Returns an object with one duplicate member.
fn twice(random: &mut Random, text: &str, members: &Map<String, Value>) -> Vec<u8> {
    let name = some_name(random, members);
    let Some(value) = members.get(&name) else {
        return text.as_bytes().to_vec();
    };
    format!("{{{}:{value},{}", json!(name), &text[1..]).into_bytes()
}

/// The name of one member, or a fixed name when there are none.
fn some_name(random: &mut Random, members: &Map<String, Value>) -> String {
    let at = random.below(members.len().max(1));
    let name = members.keys().nth(at);
    name.cloned().unwrap_or_else(|| "x".to_owned())
}

fn some_node<'a>(random: &mut Random, mut node: &'a Value) -> &'a Value {
    loop {
        node = match node {
            Value::Array(items) if !items.is_empty() && random.below(4) > 0 => random.one_of(items),
            Value::Object(members) if !members.is_empty() && random.below(4) > 0 => {
                let at = random.below(members.len());
                match members.values().nth(at) {
                    Some(member) => member,
                    None => return node,
                }
            }
            node => return node,
        };
    }
}

fn some_place<'a>(random: &mut Random, mut node: &'a mut Value) -> &'a mut Value {
    loop {
        let members = match &*node {
            Value::Array(items) => items.len(),
            Value::Object(members) => members.len(),
            _ => 0,
        };
        if members == 0 || random.below(4) == 0 {
            return node;
        }
        let at = random.below(members);
        let deeper = match node {
            Value::Array(items) => items.get_mut(at),
            Value::Object(members) => members.values_mut().nth(at),
            _ => None,
        };
        node = deeper.expect("it has as many");
    }
}

/// Repeats one node of a seed, once for the shorter and once for the longer input.
pub(super) fn grown(random: &mut Random, seeds: &[Value]) -> [Vec<u8>; 2] {
    let tree = random.one_of(seeds);
    let other = random.one_of(seeds);
    let again = some_node(random, other).clone();
    let place = random.next();
    REPEATED.map(|bytes| {
        let times = bytes / (again.to_string().len() + 4);
        let mut tree = tree.clone();
        // The same node in both inputs.
        let node = some_place(&mut Random::new(place), &mut tree);
        match node {
            Value::Array(items) => items.extend((0..times).map(|_| again.clone())),
            Value::Object(members) => {
                members.extend((0..times).map(|n| (format!("x{n}"), again.clone())));
            }
            Value::String(text) => *text = again.to_string().repeat(times),
            node => *node = json!(vec![again.clone(); times]),
        }
        tree.to_string().into_bytes()
    })
}
