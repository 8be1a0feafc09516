//! The shapes on the wire, and what is kept of them. Parsing is tolerant: only the fields that are
//! used must be there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;
use zeroize::Zeroizing;

/// One block document.
pub struct Block {
    /// Its name.
    pub name: String,
    /// The raw JSON text of `data`, an object, exactly as served.
    pub data: Zeroizing<String>,
    /// Paths in `data` that the block's schema calls secret, without duplicates: `value`,
    /// `credentials.aws_secret_access_key`, or with a wildcard `service_account_info.*`.
    pub secret_fields: Vec<String>,
    /// The fields that the block's schema has, in the order served.
    pub fields: Vec<String>,
    /// Its id, and those of the blocks whose values are inlined in `data`: events name them.
    pub ids: Vec<Uuid>,
}

/// One variable.
pub struct Variable {
    /// Its name.
    pub name: String,
    /// The raw JSON text of its value, exactly as served.
    pub value: Zeroizing<String>,
    /// Its id: events name it.
    pub id: Option<Uuid>,
    /// Its tags.
    pub tags: Vec<String>,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("name", &self.name)
            .field("secret_fields", &self.secret_fields)
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Variable").field("name", &self.name).finish_non_exhaustive()
    }
}

/// JSON that is not of the shape expected. Says nothing more: serde's messages quote the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ShapeError;

pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ShapeError> {
    serde_json::from_slice(body).map_err(|_| ShapeError)
}

#[derive(Deserialize)]
pub(crate) struct BlockWire<'a> {
    #[serde(default)]
    id: IdWire,
    name: String,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    block_schema: Option<SchemaWire>,
    #[serde(default)]
    block_document_references: ReferencesWire,
}

/// An id; nothing where it is no UUID.
#[derive(Default)]
struct IdWire(Option<Uuid>);

impl<'de> Deserialize<'de> for IdWire {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<IdWire, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        let text: Option<Cow<'_, str>> = serde_json::from_str(raw.get()).ok();
        Ok(IdWire(text.and_then(|text| Uuid::parse_str(&text).ok())))
    }
}

/// The ids of all blocks that a block refers to, and of those that they refer to; none where the shape is unknown, or
/// nested more deeply than a parser goes along with.
#[derive(Default)]
struct ReferencesWire(Vec<Uuid>);

#[derive(Deserialize)]
struct ReferenceWire<'a> {
    #[serde(borrow)]
    block_document: ReferredWire<'a>,
}

#[derive(Deserialize)]
struct ReferredWire<'a> {
    #[serde(default)]
    id: IdWire,
    #[serde(borrow, default)]
    block_document_references: BTreeMap<Cow<'a, str>, ReferenceWire<'a>>,
}

impl ReferredWire<'_> {
    fn ids(self, ids: &mut Vec<Uuid>) {
        ids.extend(self.id.0);
        self.block_document_references.into_values().for_each(|reference| reference.block_document.ids(ids));
    }
}

impl<'de> Deserialize<'de> for ReferencesWire {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ReferencesWire, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        // Not one by one: each would begin to count its depth anew.
        let references: BTreeMap<Cow<'_, str>, ReferenceWire<'_>> = serde_json::from_str(raw.get()).unwrap_or_default();
        let mut ids = Vec::new();
        references.into_values().for_each(|reference| reference.block_document.ids(&mut ids));
        Ok(ReferencesWire(ids))
    }
}

#[derive(Deserialize)]
struct SchemaWire {
    #[serde(default)]
    fields: FieldsWire,
}

#[derive(Default, Deserialize)]
struct FieldsWire {
    #[serde(default)]
    secret_fields: Vec<String>,
    #[serde(default)]
    properties: Keys,
}

#[derive(Deserialize)]
pub(crate) struct VariableWire<'a> {
    #[serde(default)]
    id: IdWire,
    name: String,
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// What is listed and has a name.
pub(crate) trait Named {
    /// The name.
    fn name(&self) -> &str;
}

impl Named for BlockWire<'_> {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for VariableWire<'_> {
    fn name(&self) -> &str {
        &self.name
    }
}

#[derive(Deserialize)]
pub(crate) struct NameWire {
    pub(crate) name: String,
}

#[derive(Deserialize)]
pub(crate) struct SlugWire {
    pub(crate) slug: String,
}

#[derive(Deserialize)]
pub(crate) struct TokenWire<'a> {
    #[serde(borrow)]
    pub(crate) token: Cow<'a, str>,
}

impl TryFrom<BlockWire<'_>> for Block {
    type Error = ShapeError;

    fn try_from(wire: BlockWire<'_>) -> Result<Block, ShapeError> {
        if !wire.data.get().starts_with('{') {
            return Err(ShapeError);
        }
        let fields = wire.block_schema.map(|schema| schema.fields).unwrap_or_default();
        // The schema of "secret" lists "value" once for each type that it may have.
        let mut secret_fields: Vec<String> = Vec::with_capacity(fields.secret_fields.len());
        for field in fields.secret_fields {
            if !secret_fields.contains(&field) {
                secret_fields.push(field);
            }
        }
        Ok(Block {
            name: wire.name,
            data: Zeroizing::new(wire.data.get().to_owned()),
            secret_fields,
            fields: fields.properties.0,
            ids: wire.id.0.into_iter().chain(wire.block_document_references.0).collect(),
        })
    }
}

impl From<VariableWire<'_>> for Variable {
    fn from(wire: VariableWire<'_>) -> Variable {
        Variable {
            name: wire.name,
            value: Zeroizing::new(wire.value.get().to_owned()),
            id: wire.id.0,
            tags: wire.tags.unwrap_or_default(),
        }
    }
}

/// The keys of an object, in order.
#[derive(Default)]
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Keys, D::Error> {
        struct KeysVisitor;

        impl<'de> Visitor<'de> for KeysVisitor {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }

        deserializer.deserialize_map(KeysVisitor)
    }
}

/// What an error answer says of itself, as far as it helps to classify it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct FailureWire<'a> {
    #[serde(borrow)]
    detail: Option<&'a RawValue>,
}

/// The `detail` of an error answer, if it is JSON with a string there. Only for comparing.
///
/// Prefect has three shapes: `{"detail": "…"}`, `{"exception_message": …, "request_body": …}`
/// and FastAPI's own list under `detail`.
pub(crate) fn failure_detail(body: &[u8]) -> Option<Zeroizing<String>> {
    let failure: FailureWire<'_> = parse(body).ok()?;
    let detail: String = serde_json::from_str(failure.detail?.get()).ok()?;
    Some(Zeroizing::new(detail))
}

/// Whether a body is a JSON object, as every error answer of Prefect is.
pub(crate) fn is_json_object(body: &[u8]) -> bool {
    parse::<&RawValue>(body).is_ok_and(|raw| raw.get().starts_with('{'))
}

#[derive(Serialize)]
struct AnyOf<'a> {
    any_: &'a [&'a str],
}

#[derive(Serialize)]
struct ByName<'a> {
    name: AnyOf<'a>,
}

#[derive(Serialize)]
struct BySlug<'a> {
    slug: AnyOf<'a>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(offset: &usize) -> bool {
    *offset == 0
}

/// Body of `POST block_documents/filter`.
#[derive(Serialize)]
pub(crate) struct BlockFilter<'a> {
    block_types: BySlug<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_documents: Option<ByName<'a>>,
    include_secrets: bool,
    sort: &'static str,
    limit: usize,
    #[serde(skip_serializing_if = "is_zero")]
    offset: usize,
}

impl<'a> BlockFilter<'a> {
    /// Documents of one type with their secrets, by exact names.
    pub(crate) fn by_names(block_type: &'a [&'a str; 1], names: &'a [&'a str]) -> BlockFilter<'a> {
        BlockFilter {
            block_documents: Some(ByName { name: AnyOf { any_: names } }),
            include_secrets: true,
            ..BlockFilter::first(block_type)
        }
    }

    /// A page of the documents of one type, with their secrets.
    pub(crate) fn page(block_type: &'a [&'a str; 1], offset: usize) -> BlockFilter<'a> {
        BlockFilter { include_secrets: true, offset, ..BlockFilter::first(block_type) }
    }

    /// The first documents of one type, masked.
    pub(crate) fn first(block_type: &'a [&'a str; 1]) -> BlockFilter<'a> {
        BlockFilter {
            block_types: BySlug { slug: AnyOf { any_: block_type } },
            block_documents: None,
            include_secrets: false,
            sort: "NAME_ASC",
            limit: super::MAX_NAMES,
            offset: 0,
        }
    }
}

#[derive(Serialize)]
struct AllOf<'a> {
    all_: &'a [String],
}

#[derive(Serialize)]
struct VariablesBy<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<AnyOf<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<AllOf<'a>>,
}

/// Body of `POST variables/filter`.
#[derive(Serialize)]
pub(crate) struct VariableFilter<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    variables: Option<VariablesBy<'a>>,
    sort: &'static str,
    limit: usize,
    #[serde(skip_serializing_if = "is_zero")]
    offset: usize,
}

impl<'a> VariableFilter<'a> {
    /// By exact names, or the first ones.
    pub(crate) fn new(names: Option<&'a [&'a str]>) -> VariableFilter<'a> {
        VariableFilter {
            variables: names.map(|any_| VariablesBy { name: Some(AnyOf { any_ }), tags: None }),
            sort: "NAME_ASC",
            limit: super::MAX_NAMES,
            offset: 0,
        }
    }

    /// A page of those that have all of these tags.
    pub(crate) fn page(tags: &'a [String], offset: usize) -> VariableFilter<'a> {
        let variables = (!tags.is_empty()).then_some(VariablesBy { name: None, tags: Some(AllOf { all_: tags }) });
        VariableFilter { variables, offset, ..VariableFilter::new(None) }
    }
}

/// Body of `POST block_types/filter`.
#[derive(Serialize)]
pub(crate) struct BlockTypeFilter {
    limit: usize,
}

impl BlockTypeFilter {
    /// The first ones.
    pub(crate) fn first() -> BlockTypeFilter {
        BlockTypeFilter { limit: super::MAX_NAMES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_text_survives_whatever_it_is() {
        let data =
            r#"{"value": {"n":1.50,"e":1E5,"big":123456789012345678901234567890,"b":"\u0000\ud83d\ude00","a":-0.0}}"#;
        let body = format!(
            r#"[{{"name":"x","data":{data},"block_schema":{{"fields":{{"secret_fields":["value","value"],"properties":{{"zeta":{{}},"alpha":{{}}}}}}}}}}]"#
        );
        let wire: Vec<BlockWire<'_>> = parse(body.as_bytes()).unwrap();
        let block = Block::try_from(wire.into_iter().next().unwrap()).unwrap();
        assert_eq!(*block.data, data);
        assert_eq!(block.secret_fields, ["value"]);
        assert_eq!(block.fields, ["zeta", "alpha"]);
    }

    #[test]
    fn a_schema_that_is_not_served_is_an_empty_one() {
        for schema in ["", r#","block_schema":null"#, r#","block_schema":{}"#] {
            let body = format!(r#"{{"name":"x","data":{{}}{schema}}}"#);
            let block = Block::try_from(parse::<BlockWire<'_>>(body.as_bytes()).unwrap()).unwrap();
            assert!(block.fields.is_empty() && block.secret_fields.is_empty());
        }
    }

    #[test]
    fn references_that_are_nested_without_end_are_none_and_do_no_harm() {
        let nested = |depth: usize| {
            let id = Uuid::from_u128(1);
            let open = format!(r#"{{"a":{{"block_document":{{"id":"{id}","block_document_references":"#).repeat(depth);
            let body =
                format!(r#"{{"name":"x","data":{{}},"block_document_references":{open}{{}}{}}}"#, "}}}".repeat(depth));
            Block::try_from(parse::<BlockWire<'_>>(body.as_bytes()).unwrap()).unwrap().ids.len()
        };
        assert_eq!(nested(3), 3);
        // Deeper than any stack.
        assert_eq!(nested(100_000), 0);
    }

    #[test]
    fn data_must_be_an_object() {
        for data in ["null", "[]", "\"x\""] {
            let body = format!(r#"{{"name":"x","data":{data}}}"#);
            let wire: BlockWire<'_> = parse(body.as_bytes()).unwrap();
            assert_eq!(Block::try_from(wire).err(), Some(ShapeError));
        }
    }

    #[test]
    fn a_detail_is_only_read_when_it_is_a_string() {
        let detail = |body: &str| failure_detail(body.as_bytes()).map(|text| text.to_string());
        assert_eq!(detail(r#"{"detail":"Not Found"}"#).as_deref(), Some("Not Found"));
        assert_eq!(detail(r#"{"detail":[{"input":"x"}]}"#), None);
        assert_eq!(detail(r#"{"exception_message":"Unauthorized"}"#), None);
        assert_eq!(detail("<html>"), None);
    }

    #[test]
    fn a_blocks_ids_are_its_own_and_those_of_all_that_is_inlined_in_it() {
        let ids = [1_u128, 2, 3].map(Uuid::from_u128);
        let inner = format!(r#"{{"c":{{"block_document":{{"id":"{}"}}}}}}"#, ids[2]);
        let references = format!(
            r#"{{"b":{{"block_document":{{"id":"{}","name":"x","block_document_references":{inner}}}}}}}"#,
            ids[1]
        );
        let body = |id: &str, references: &str| {
            format!(r#"{{"id":{id},"name":"n","data":{{}},"block_document_references":{references}}}"#)
        };
        let ids_of = |body: String| Block::try_from(parse::<BlockWire<'_>>(body.as_bytes()).unwrap()).unwrap().ids;
        assert_eq!(ids_of(body(&format!("\"{}\"", ids[0]), &references)), ids);
        // Another shape is no reason not to read a value.
        assert!(ids_of(body("7", "[1]")).is_empty());
        assert!(ids_of(body("null", "null")).is_empty());
    }

    #[test]
    fn debug_shows_no_value() {
        let variable: Variable = parse::<VariableWire<'_>>(br#"{"name":"n","value":"canary"}"#).unwrap().into();
        assert_eq!(format!("{variable:?}"), r#"Variable { name: "n", .. }"#);
    }
}
