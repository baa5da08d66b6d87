//! Reads `wire.table` and answers which struct a kind is.
//!
//! **Invariant:** the text is ours and part of the binary; a line that cannot be read is a bug that the tests find, so
//! reading it panics instead of failing.

use std::sync::OnceLock;

use super::{Body, FieldDef, Keys, ListType, MergeDef, Omit, SchemaOr, StructDef, Type};

pub(super) const TEXT: &str = include_str!("wire.table");

/// All structs of the built-in API.
#[derive(Debug)]
pub struct Table {
    /// Sorted by name.
    structs: &'static [StructDef],
    /// Group version (`apps/v1`) and package (`apps.v1`), sorted by package.
    packages: Vec<(&'static str, &'static str)>,
}

/// The table, read at first use.
pub fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| Table::read(TEXT))
}

impl Table {
    /// The struct of a kind. Kinds that every group has (`DeleteOptions`, `Status`, `WatchEvent`, `ListOptions` …) are
    /// those of `meta.v1`.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&'static StructDef> {
        let own = self.packages.iter().find(|(gv, _)| match gv.split_once('/') {
            Some((g, v)) => g == group && v == version,
            None => group.is_empty() && *gv == version,
        });
        let own = own.and_then(|(_, package)| self.in_package(package, kind));
        own.or_else(|| self.in_package("meta.v1", kind)).filter(|def| def.kind)
    }

    /// The struct with this short full name, as `core.v1.PodSpec`.
    pub fn by_name(&self, name: &str) -> Option<&'static StructDef> {
        self.structs.binary_search_by(|s| s.name.cmp(name)).ok().map(|i| &self.structs[i])
    }

    /// All structs, sorted by name.
    pub fn structs(&self) -> &'static [StructDef] {
        self.structs
    }

    /// `apps/v1` of `apps.v1`; none for packages that are no group version.
    pub fn group_version(&self, package: &str) -> Option<&'static str> {
        self.packages.iter().find(|(_, p)| *p == package).map(|(gv, _)| *gv)
    }

    fn in_package(&self, package: &str, name: &str) -> Option<&'static StructDef> {
        let wanted = || package.bytes().chain([b'.']).chain(name.bytes());
        self.structs.binary_search_by(|s| s.name.bytes().cmp(wanted())).ok().map(|i| &self.structs[i])
    }

    fn read(text: &'static str) -> Self {
        let mut packages = Vec::new();
        let mut structs = Vec::new();
        let mut bodies: Vec<Vec<&'static str>> = Vec::new();
        for line in text.lines() {
            if let Some(package) = line.strip_prefix('@') {
                let (package, group_version) = package.split_once(' ').expect("a package line has two parts");
                packages.push((group_version, package));
            } else if let Some(field) = line.strip_prefix(' ') {
                bodies.last_mut().expect("a field follows a struct").push(field);
            } else {
                let mut parts = line.split(' ');
                let name = parts.next().expect("split gives one part at least");
                let flags: Vec<&str> = parts.collect();
                let has = |flag: &str| flags.contains(&flag);
                let (kind, atomic, published) = (has("kind"), has("atomic"), has("schema"));
                let place = structs.len();
                structs.push(StructDef { name, place, kind, atomic, published, body: OnceLock::new() });
                bodies.push(Vec::new());
            }
        }
        let table = Self { structs: Vec::leak(structs), packages };
        for (def, body) in table.structs.iter().zip(bodies) {
            let fields: Vec<FieldDef> = body.into_iter().map(|line| table.read_field(def, line)).collect();
            let always = (0..fields.len()).filter(|i| fields[*i].is_always_written()).collect();
            let mut protobuf: Vec<usize> = (0..fields.len()).filter(|i| fields[*i].pb != 0).collect();
            protobuf.sort_by_key(|i| [fields[*i].via, &[fields[*i].pb]].concat());
            def.body.set(Body { fields, always, protobuf }).expect("each struct is filled once");
        }
        table
    }

    fn read_field(&self, def: &StructDef, line: &'static str) -> FieldDef {
        let mut parts = line.split(' ');
        let mut next = || parts.next().unwrap_or_else(|| panic!("{}: short line: {line}", def.name));
        let (go_path, number, ty) = (next(), next(), next());
        let (via, pb) = read_number(number);
        let (pointer, ty) = ty.strip_prefix('*').map_or((false, ty), |t| (true, t));
        let mut field = FieldDef {
            json: go_path.rsplit_once('.').map_or(go_path, |(_, json)| json),
            go_path,
            ty: self.read_type(def, ty),
            pointer,
            omit: Omit::Never,
            required: false,
            keeps_empty: false,
            pb,
            via,
            list: None,
            atomic: None,
            merge: MergeDef::default(),
            default: None,
        };
        for flag in parts {
            match flag.split_once('=') {
                None => match flag {
                    "?" => field.omit = Omit::Empty,
                    "??" => field.omit = Omit::Zero,
                    "!" => field.required = true,
                    "[]" => field.keeps_empty = true,
                    _ => panic!("{}: unknown flag in: {line}", def.name),
                },
                Some(("l", "atomic")) => field.list = Some(ListType::Atomic),
                Some(("l", "set")) => field.list = Some(ListType::Set),
                Some(("l", keys)) => {
                    field.list = Some(ListType::Map(Keys::Table(Vec::leak(keys.split(',').collect()))));
                }
                Some(("t", map)) => field.atomic = Some(map == "atomic"),
                Some(("m", merge)) => field.merge = read_merge(merge),
                Some(("d", default)) => field.default = Some(default),
                Some(_) => panic!("{}: unknown flag in: {line}", def.name),
            }
        }
        field
    }

    fn read_type(&self, def: &StructDef, text: &str) -> Type {
        let inner = |text: &str| -> &'static Type { Box::leak(Box::new(self.read_type(def, text))) };
        if let Some(element) = text.strip_prefix("[]") {
            return Type::List(inner(element));
        }
        if let Some(value) = text.strip_prefix("{}") {
            return Type::Map(inner(value));
        }
        match text {
            "string" => Type::String,
            "bool" => Type::Bool,
            "int32" => Type::Int32,
            "int64" => Type::Int64,
            "float" => Type::Float,
            "bytes" => Type::Bytes,
            "quantity" => Type::Quantity,
            "intorstring" => Type::IntOrString,
            "time" => Type::Time,
            "microtime" => Type::MicroTime,
            "duration" => Type::Duration,
            "fieldsv1" => Type::FieldsV1,
            "raw" => Type::RawExtension,
            "json" => Type::Json,
            "items" => Type::Items,
            "schema|array" => Type::Schema(SchemaOr::Array),
            "schema|bool" => Type::Schema(SchemaOr::Bool),
            "schema|strings" => Type::Schema(SchemaOr::Strings),
            name => {
                let found = if name.contains('.') { self.by_name(name) } else { self.in_package(def.package(), name) };
                Type::Struct(found.unwrap_or_else(|| panic!("{}: unknown type {name}", def.name)))
            }
        }
    }
}

/// `2.1` is number 1 via message 2; `-` is none.
fn read_number(text: &str) -> (&'static [u32], u32) {
    if text == "-" {
        return (&[], 0);
    }
    let mut numbers: Vec<u32> = text.split('.').map(|n| n.parse().expect("field numbers are decimal")).collect();
    let last = numbers.pop().expect("split gives one part at least");
    (if numbers.is_empty() { &[] } else { Vec::leak(numbers) }, last)
}

fn read_merge(text: &'static str) -> MergeDef {
    let (strategies, key) = text.split_once(':').expect("a merge flag has a colon");
    let has = |name: &str| strategies.split('+').any(|s| s == name);
    MergeDef {
        merge: has("merge"),
        retain_keys: has("retainKeys"),
        replace: has("replace"),
        key: (!key.is_empty()).then_some(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use test_case::test_case;

    #[test_case("", "v1", "Pod", "core.v1.Pod")]
    #[test_case("apps", "v1", "Deployment", "apps.v1.Deployment")]
    #[test_case("autoscaling", "v2", "HorizontalPodAutoscaler", "autoscaling.v2.HorizontalPodAutoscaler")]
    #[test_case("rbac.authorization.k8s.io", "v1", "ClusterRole", "rbac.v1.ClusterRole")]
    #[test_case("apps", "v1", "DeleteOptions", "meta.v1.DeleteOptions" ; "every group has delete options")]
    #[test_case("example.com", "v1", "Status", "meta.v1.Status" ; "and status")]
    fn kinds(group: &str, version: &str, kind: &str, want: &str) {
        assert_eq!(table().kind(group, version, kind).map(|s| s.name), Some(want));
    }

    #[test]
    fn what_is_no_kind_is_not_found() {
        assert!(table().kind("", "v1", "PodSpec").is_none());
        assert!(table().kind("", "v1", "ObjectMeta").is_none());
        assert!(table().kind("", "v2", "Pod").is_none());
    }

    #[test]
    fn structs_are_sorted_and_defaults_are_json() {
        assert!(table().structs().is_sorted_by_key(|s| s.name));
        let defaults: Vec<Value> =
            table().structs().iter().flat_map(|s| s.fields()).filter_map(FieldDef::real_default).collect();
        assert!(defaults.len() > 10);
    }

    #[test]
    fn inlined_structs_are_spread_and_keep_their_way_in_protobuf() {
        let volume = table().by_name("core.v1.Volume").unwrap();
        let host_path = volume.field("hostPath").unwrap();
        assert_eq!((host_path.via, host_path.pb), (&[2][..], 1));
        let rule = table().by_name("admissionregistration.v1.NamedRuleWithOperations").unwrap();
        assert_eq!(rule.field("scope").unwrap().via, [2, 2]);
    }

    /// Compares the table with the facts it was made from, where `ORCH_FACTS` names their directory.
    #[test]
    fn agrees_with_the_facts() {
        let Some(dir) = std::env::var_os("ORCH_FACTS").map(std::path::PathBuf::from) else { return };
        let read = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap() };
        for resource in read("resources.json").as_array().unwrap() {
            let (gv, kind) = (resource["groupVersion"].as_str().unwrap(), resource["kind"].as_str().unwrap());
            let (group, version) = crate::api::meta::gvk::split(gv);
            let (group, version) = match kind {
                "Scale" => ("autoscaling", "v1"),
                "TokenRequest" => ("authentication.k8s.io", "v1"),
                "Eviction" => ("policy", "v1"),
                _ => (group, version),
            };
            if !version.contains("alpha") && !version.contains("beta") {
                assert!(table().kind(group, version, kind).is_some(), "{group}/{version} {kind}");
            }
        }
        let (mut checked, wire) = (0, read("wire.json"));
        for (name, def) in read("fields.json").as_object().unwrap() {
            let parts: Vec<&str> = name.rsplitn(4, '.').collect();
            let short = format!("{}.{}.{}", parts[2], parts[1], parts[0]);
            let (Some(ours), Some(_)) = (table().by_name(&short), wire.get(name)) else { continue };
            let fields = def["fields"].as_object().unwrap();
            assert_eq!(ours.fields().len(), fields.len(), "{short}");
            for (json, said) in fields {
                let field = ours.field(json).unwrap_or_else(|| panic!("{short}.{json}"));
                let list = match said.get("listType").and_then(Value::as_str) {
                    None => None,
                    Some("atomic") => Some("atomic".to_owned()),
                    Some("set") => Some("set".to_owned()),
                    Some(_) => Some(format!("{:?}", said["mapKeys"].as_array().unwrap())),
                };
                let got = field.list.map(|l| match l {
                    ListType::Atomic => "atomic".to_owned(),
                    ListType::Set => "set".to_owned(),
                    ListType::Map(keys) => {
                        format!("{:?}", keys.iter().map(Value::from).collect::<Vec<_>>())
                    }
                });
                assert_eq!(got, list, "{short}.{json}");
                assert_eq!(field.merge.key, said.get("patchMergeKey").and_then(Value::as_str), "{short}.{json}");
                checked += 1;
            }
        }
        assert!(checked > 1500, "only {checked} fields compared");
    }
}
