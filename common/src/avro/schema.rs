//! A schema's text becomes a tree of types.
//!
//! A schema comes from a registry that others write to. It is bounded: a type that is named twice counts twice, as it
//! would be walked, so that a few lines cannot stand for millions of nodes; and a type that refers to itself, whose
//! values could be nested as deep as their bytes allow, is refused.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::types::{Enum, Field, Fixed, Record, Type, Unit};

/// Nodes of a schema. Ours has 20.
const MAX_NODES: usize = 10_000;
/// Types within types.
const MAX_DEPTH: usize = 64;

/// Why a text is no schema that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SchemaError(String);

/// A schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema(pub(super) Type);

impl Schema {
    /// Reads the text of a schema.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        // serde_json bounds how deep a text is nested.
        let json: Value =
            serde_json::from_str(text).map_err(|error| wrong(format!("it is not JSON: {error}")))?;
        let mut parser = Parser { named: HashMap::new() };
        let root = parser.read(&json, "", 0)?;
        Ok(Self(root.of))
    }
}

fn wrong(why: impl Into<String>) -> SchemaError {
    SchemaError(why.into())
}

/// A type, and how much of it there is.
#[derive(Clone)]
struct Node {
    of: Type,
    nodes: usize,
    depth: usize,
}

impl Node {
    fn leaf(of: Type) -> Self {
        Self { of, nodes: 1, depth: 1 }
    }
}

struct Parser {
    /// By full name. `None` while it is being read.
    named: HashMap<String, Option<Node>>,
}

/// Adds up the parts of a type.
#[derive(Default)]
struct Size {
    nodes: usize,
    depth: usize,
}

impl Size {
    fn add(&mut self, part: &Node) -> Result<(), SchemaError> {
        self.nodes = self.nodes.saturating_add(part.nodes);
        self.depth = self.depth.max(part.depth);
        if self.nodes >= MAX_NODES {
            return Err(wrong(format!(
                "it has more than {MAX_NODES} types, those that are used twice counted twice"
            )));
        }
        if self.depth >= MAX_DEPTH {
            return Err(wrong(format!("its types are nested more than {MAX_DEPTH} deep")));
        }
        Ok(())
    }

    fn node(self, of: Type) -> Node {
        Node { of, nodes: self.nodes + 1, depth: self.depth + 1 }
    }
}

impl Parser {
    fn read(&mut self, json: &Value, namespace: &str, depth: usize) -> Result<Node, SchemaError> {
        if depth >= MAX_DEPTH {
            return Err(wrong(format!("its types are nested more than {MAX_DEPTH} deep")));
        }
        match json {
            Value::String(name) => self.named(name, namespace),
            Value::Array(branches) => self.union(branches, namespace, depth),
            Value::Object(object) => self.object(object, namespace, depth),
            other => Err(wrong(format!("{other} is not a type"))),
        }
    }

    fn named(&self, name: &str, namespace: &str) -> Result<Node, SchemaError> {
        if let Some(primitive) = primitive(name) {
            return Ok(Node::leaf(primitive));
        }
        match self.named.get(&full_name(name, namespace)).or_else(|| self.named.get(name)) {
            Some(Some(node)) => Ok(node.clone()),
            Some(None) => {
                Err(wrong(format!("type {name} refers to itself, which task-events does not read")))
            }
            None => Err(wrong(format!("there is no type {name}"))),
        }
    }

    fn union(&mut self, branches: &[Value], namespace: &str, depth: usize) -> Result<Node, SchemaError> {
        let mut size = Size::default();
        let mut types = Vec::with_capacity(branches.len());
        for branch in branches {
            let node = self.read(branch, namespace, depth + 1)?;
            if matches!(node.of, Type::Union(_)) {
                return Err(wrong("a union is directly within a union"));
            }
            size.add(&node)?;
            types.push(node.of);
        }
        if types.is_empty() {
            return Err(wrong("a union has no branches"));
        }
        Ok(size.node(Type::Union(types.into())))
    }

    fn object(
        &mut self,
        object: &Map<String, Value>,
        namespace: &str,
        depth: usize,
    ) -> Result<Node, SchemaError> {
        let kind = match object.get("type") {
            Some(Value::String(kind)) => kind.as_str(),
            Some(nested) => return self.read(nested, namespace, depth + 1),
            None => return Err(wrong("a type has no \"type\"")),
        };
        let part = |name: &str| object.get(name).ok_or_else(|| wrong(format!("a {kind} has no \"{name}\"")));
        match kind {
            "record" | "error" => self.record(object, part("fields")?, namespace, depth),
            "enum" => {
                let symbols =
                    texts(part("symbols")?).ok_or_else(|| wrong("symbols are not a list of names"))?;
                let default = object.get("default").and_then(Value::as_str).map(str::to_owned);
                self.define(object, namespace, |name| {
                    Node::leaf(Type::Enum(Arc::new(Enum { name, symbols, default })))
                })
            }
            "fixed" => {
                let size = part("size")?.as_u64().and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or_else(|| wrong("the size of a fixed is not a number of bytes"))?;
                self.define(object, namespace, |name| Node::leaf(Type::Fixed(Arc::new(Fixed { name, size }))))
            }
            "array" | "map" => {
                let part = part(if kind == "array" { "items" } else { "values" })?;
                let items = self.read(part, namespace, depth + 1)?;
                let mut size = Size::default();
                size.add(&items)?;
                let items = Arc::new(items.of);
                Ok(size.node(if kind == "array" { Type::Array(items) } else { Type::Map(items) }))
            }
            _ => {
                let mut node = self.named(kind, namespace)?;
                node.of = with_logical_type(node.of, object.get("logicalType").and_then(Value::as_str));
                Ok(node)
            }
        }
    }

    fn record(
        &mut self,
        object: &Map<String, Value>,
        fields: &Value,
        namespace: &str,
        depth: usize,
    ) -> Result<Node, SchemaError> {
        let name = name_of(object, namespace)?;
        if self.named.insert(name.clone(), None).is_some() {
            return Err(wrong(format!("type {name} is defined twice")));
        }
        let inner = name.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        let Value::Array(list) = fields else {
            return Err(wrong(format!("the fields of {name} are not a list")));
        };
        let (mut size, mut fields) =
            (Size::default(), Vec::<Field>::with_capacity(list.len().min(MAX_NODES)));
        for field in list {
            let field_name = field.get("name").and_then(Value::as_str);
            let field_name = field_name.ok_or_else(|| wrong(format!("a field of {name} has no name")))?;
            if fields.iter().any(|other| other.name == field_name) {
                return Err(wrong(format!("field {field_name} of {name} is defined twice")));
            }
            let of = field
                .get("type")
                .ok_or_else(|| wrong(format!("field {field_name} of {name} has no type")))?;
            let node = self.read(of, &inner, depth + 1)?;
            size.add(&node)?;
            let aliases = field.get("aliases").and_then(texts).unwrap_or_default();
            let default = field.get("default").cloned();
            fields.push(Field { name: field_name.to_owned(), aliases, default, of: node.of });
        }
        let node = size.node(Type::Record(Arc::new(Record { name: name.clone(), fields })));
        self.named.insert(name, Some(node.clone()));
        Ok(node)
    }

    /// A named type without parts.
    fn define(
        &mut self,
        object: &Map<String, Value>,
        namespace: &str,
        node: impl FnOnce(String) -> Node,
    ) -> Result<Node, SchemaError> {
        let name = name_of(object, namespace)?;
        let node = node(name.clone());
        if self.named.insert(name.clone(), Some(node.clone())).is_some() {
            return Err(wrong(format!("type {name} is defined twice")));
        }
        Ok(node)
    }
}

fn texts(list: &Value) -> Option<Vec<String>> {
    list.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

fn name_of(object: &Map<String, Value>, namespace: &str) -> Result<String, SchemaError> {
    let name = object.get("name").and_then(Value::as_str).ok_or_else(|| wrong("a named type has no name"))?;
    Ok(full_name(name, object.get("namespace").and_then(Value::as_str).unwrap_or(namespace)))
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn primitive(name: &str) -> Option<Type> {
    Some(match name {
        "null" => Type::Null,
        "boolean" => Type::Boolean,
        "int" => Type::Int { is_date: false },
        "long" => Type::Long(None),
        "float" => Type::Float,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "string" => Type::Text,
        _ => return None,
    })
}

fn with_logical_type(of: Type, logical: Option<&str>) -> Type {
    match (&of, logical) {
        (Type::Int { .. }, Some("date")) => Type::Int { is_date: true },
        (Type::Long(_), Some("timestamp-millis")) => Type::Long(Some(Unit::Millis)),
        (Type::Long(_), Some("timestamp-micros")) => Type::Long(Some(Unit::Micros)),
        (Type::Long(_), Some("timestamp-nanos")) => Type::Long(Some(Unit::Nanos)),
        _ => of,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Schema::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn names_are_found_in_their_namespace() {
        let text = r#"{"type":"record","name":"a.b.R","fields":[
            {"name":"x","type":{"type":"enum","name":"E","symbols":["s"]}},
            {"name":"y","type":"a.b.E"},{"name":"z","type":["null","E"],"default":null}]}"#;
        let Schema(Type::Record(record)) = Schema::parse(text).unwrap() else { panic!("a record") };
        assert_eq!(record.fields[0].of, record.fields[1].of);
        assert_eq!(record.fields[2].of.name(), "union of null, enum a.b.E");
    }

    #[test]
    fn what_is_no_schema_is_said() {
        for (text, why) in [
            ("{", "not JSON"),
            ("7", "not a type"),
            ("\"nobody\"", "no type nobody"),
            ("[]", "no branches"),
            (r#"["null",["string"]]"#, "directly within"),
            (r#"{"type":"record","name":"R"}"#, "no \"fields\""),
            (r#"{"type":"record","name":"R","fields":[{"name":"a"}]}"#, "has no type"),
            (
                r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"a","type":"int"}]}"#,
                "twice",
            ),
            (r#"{"type":"fixed","name":"F","size":-1}"#, "size"),
        ] {
            assert!(refused(text).contains(why), "{text}: {}", refused(text));
        }
    }

    #[test]
    fn a_schema_that_refers_to_itself_or_stands_for_millions_of_types_is_refused() {
        let list = r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#;
        assert!(refused(list).contains("refers to itself"));
        let mut doubling = r#"{"type":"record","name":"R0","fields":[]}"#.to_owned();
        for n in 1..20 {
            doubling = format!(
                r#"{{"type":"record","name":"R{n}","fields":[{{"name":"a","type":{doubling}}},{{"name":"b","type":"R{}"}}]}}"#,
                n - 1
            );
        }
        let why = refused(&doubling);
        assert!(why.contains("more than"), "{why}");
    }
}
