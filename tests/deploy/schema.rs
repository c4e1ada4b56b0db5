//! Whether a value fits a schema of `schemas.json`, which `tools/kubernetes-schemas` writes. A field that the schema does
//! not name does not fit: a server would ignore it, or refuse it.

use serde_json::{Map, Value};

pub struct Schemas(Value);

impl Schemas {
    pub fn read() -> Self {
        Self(serde_json::from_str(&crate::text("tests/deploy/schemas.json")).unwrap())
    }

    /// What is wrong with a manifest, each with the path of its field.
    pub fn faults(&self, manifest: &Value) -> Vec<String> {
        let word = |name: &str| manifest[name].as_str().unwrap_or_default();
        let kind = format!("{} {}", word("apiVersion"), word("kind"));
        let Some(definition) = self.0["kinds"][&kind].as_str() else {
            return vec![format!(
                "no schema of {kind:?}: see tools/kubernetes-schemas"
            )];
        };
        let mut faults = Vec::new();
        self.check(manifest, self.definition(definition), &kind, &mut faults);
        faults
    }

    fn definition(&self, name: &str) -> &Map<String, Value> {
        self.0["definitions"][name].as_object().unwrap()
    }

    fn check(
        &self,
        value: &Value,
        schema: &Map<String, Value>,
        at: &str,
        faults: &mut Vec<String>,
    ) {
        for (keyword, says) in schema {
            match keyword.as_str() {
                "$ref" => self.check(value, self.definition(says.as_str().unwrap()), at, faults),
                "type" if !types(says).any(|kind| is(value, kind)) => {
                    faults.push(format!("{at}: is no {says}: {value}"));
                }
                "enum" if !says.as_array().unwrap().contains(value) => {
                    faults.push(format!("{at}: is none of {says}: {value}"));
                }
                "required" => {
                    for name in says.as_array().unwrap() {
                        if value.get(name.as_str().unwrap()).is_none() {
                            faults.push(format!("{at}: lacks {name}"));
                        }
                    }
                }
                "properties" => {
                    for (name, field) in value.as_object().into_iter().flatten() {
                        let at = format!("{at}.{name}");
                        match says[name].as_object() {
                            Some(schema) => self.check(field, schema, &at, faults),
                            None => faults.push(format!("{at}: there is no such field")),
                        }
                    }
                }
                "additionalProperties" => {
                    for (name, field) in value.as_object().into_iter().flatten() {
                        let at = format!("{at}.{name}");
                        self.check(field, says.as_object().unwrap(), &at, faults);
                    }
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        let at = format!("{at}[{index}]");
                        self.check(item, says.as_object().unwrap(), &at, faults);
                    }
                }
                "type" | "enum" => {}
                unknown => panic!("the schemas have a keyword that is not checked: {unknown}"),
            }
        }
    }
}

fn types(says: &Value) -> impl Iterator<Item = &str> {
    let several = says.as_array().into_iter().flatten();
    says.as_str()
        .into_iter()
        .chain(several.filter_map(Value::as_str))
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        unknown => panic!("an unknown type: {unknown}"),
    }
}
