#!/usr/bin/env python3
"""Writes src/api/schema/wire.table from a directory of API facts.

    scripts/wire-table.py FACTS > src/api/schema/wire.table

FACTS holds fields.json (the published schema), wire.json (Go declarations) and resources.json (served resources).
The form of the table is described in src/api/schema/mod.rs.
"""
import json
import re
import sys

SCALARS = {
    "string": "string", "bool": "bool", "int32": "int32", "int64": "int64", "int": "int64", "float64": "float",
    "types.UID": "string", "types.NodeName": "string", "[]byte": "bytes", "[]?": "[]json", "?": "json",
    "resource.Quantity": "quantity", "intstr.IntOrString": "intorstring", "runtime.RawExtension": "raw",
    "meta.v1.Time": "time", "meta.v1.MicroTime": "microtime", "meta.v1.Duration": "duration",
    "meta.v1.FieldsV1": "fieldsv1", "meta.v1.Verbs": "items", "apiextensions.v1.JSON": "json",
    "authentication.v1.ExtraValue": "items", "authorization.v1.ExtraValue": "items",
    "certificates.v1.ExtraValue": "items",
    "apiextensions.v1.JSONSchemaPropsOrArray": "schema|array", "apiextensions.v1.JSONSchemaPropsOrBool": "schema|bool",
    "apiextensions.v1.JSONSchemaPropsOrStringArray": "schema|strings",
}
# An empty list of these is an error, where none at all gets a default.
KEEPS_EMPTY = {("autoscaling.v2.HPAScalingRules", "policies")}
EMPTY = ["apiextensions.v1.CustomResourceSubresourceStatus"]
SKIPPED_PACKAGES = {"runtime", "resource", "intstr"}
SKIPPED = {"meta.v1.Timestamp", "meta.v1.TypeMeta", "meta.v1.InternalEvent"}


def short(name):
    parts = name.split(".")
    return ".".join(parts[-3:]) if re.fullmatch(r"v\d+\w*", parts[-2]) else ".".join(parts[-2:])


class Generator:
    def __init__(self, facts):
        load = lambda name: json.load(open(f"{facts}/{name}.json"))
        self.wire = {short(k): v for k, v in load("wire").items()}
        published = {short(k): v for k, v in load("fields").items()}
        self.wire.update({name: [] for name in EMPTY})
        self.fields = {k: v for k, v in published.items() if k in self.wire}
        self.resources = load("resources")

    def named(self, package, name):
        """The full short name of a Go type as `package` writes it."""
        if "." not in name:
            return f"{package}.{name}"
        prefix, name = name.split(".")
        if prefix in ("resource", "intstr", "runtime", "types", "time"):
            return f"{prefix}.{name}"
        for candidate in {"metav1": ["meta"], "authenticationv1": ["authentication"]}.get(prefix, ["core", "meta"]):
            if f"{candidate}.v1.{name}" in self.wire:
                return f"{candidate}.v1.{name}"
        raise KeyError(f"{package}: {prefix}.{name}")

    def type(self, package, go):
        """The type as the table writes it."""
        if go in SCALARS:
            return SCALARS[go]
        if go.startswith("[]"):
            return "[]" + self.type(package, go[2:])
        if go.startswith("map["):
            return "{}" + self.type(package, go[go.index("]") + 1:])
        name = self.named(package, go)
        if name in SCALARS:
            return SCALARS[name]
        declared = self.wire[name]
        if isinstance(declared, str):
            return self.type(name.rsplit(".", 1)[0], declared)
        return name

    def spread(self, package, struct, path=(), names=()):
        """Fields with inlined structs spread: (wire field, numbers of the embedded messages, package).
        The JSON name of a spread field has the names of the Go structs in front."""
        for field in self.wire[struct]:
            if field.get("inline"):
                name = self.named(package, field["type"])
                if name == "meta.v1.TypeMeta":
                    # Protobuf carries these in the envelope.
                    yield from (({k: v for k, v in f.items() if k != "pb"}, (), "meta.v1") for f in self.wire[name])
                else:
                    inner = names + (name.rsplit(".", 1)[1],)
                    yield from self.spread(name.rsplit(".", 1)[0], name, path + (field["pb"],), inner)
            elif "json" in field:
                yield dict(field, spelt=".".join(names + (field["json"],))), path, package

    def line(self, struct, field, path, package):
        go = field["type"]
        pointer = go.startswith("*")
        ty = self.type(package, go[1:] if pointer else go)
        home = struct.rsplit(".", 1)[0] + "."
        ty = re.sub(r"^([\[\]{}]*)" + re.escape(home), r"\1", ty)
        number = ".".join(map(str, path + (field["pb"],))) if "pb" in field else "-"
        facts = self.fields.get(struct, {})
        said = facts.get("fields", {}).get(field["json"], {})
        out = [field.get("spelt", field["json"]), number, "*" * pointer + ty]
        out += {"empty": ["?"], "zero": ["??"]}.get(field.get("omit"), [])
        out += ["!"] if field["json"] in facts.get("required", []) else []
        out += ["[]"] if (struct, field["json"]) in KEEPS_EMPTY else []
        if "listType" in said:
            out.append("l=" + (",".join(said["mapKeys"]) if said["listType"] == "map" else said["listType"]))
        if "mapType" in said:
            out.append("t=" + said["mapType"])
        if "patchStrategy" in said or "patchMergeKey" in said:
            out.append("m=" + said.get("patchStrategy", "").replace(",", "+") + ":" + said.get("patchMergeKey", ""))
        default = said.get("default")
        implied = not pointer and "omit" not in field and ty in ("string", "bool", "int32", "int64")
        if default not in (None, {}) and not (implied and not default):
            out.append("d=" + json.dumps(default, separators=(",", ":")))
        assert " " not in "".join(out), out
        return " ".join(out)

    def packages(self):
        """Short package name of each served group version that the facts declare."""
        known = {name.rsplit(".", 1)[0] for name in self.wire}
        found = {}
        for group_version in sorted({r["groupVersion"] for r in self.resources} | {"metrics.k8s.io/v1beta1"}):
            group, _, version = group_version.rpartition("/")
            first = {"": "core", "flowcontrol.apiserver.k8s.io": "flowcontrol",
                     "rbac.authorization.k8s.io": "rbac"}.get(group, group.split(".")[0])
            if f"{first}.{version}" in known:
                found[f"{first}.{version}"] = group_version
        return found

    def run(self):
        for package, group_version in sorted(self.packages().items()):
            yield f"@{package} {group_version}"
        for struct in sorted(self.wire):
            package = struct.rsplit(".", 1)[0]
            declared = self.wire[struct]
            if package in SKIPPED_PACKAGES or struct in SKIPPED or struct in SCALARS or isinstance(declared, str):
                continue
            inlined = [f["type"] for f in declared if f.get("inline")]
            flags = " kind" * any(t.endswith("TypeMeta") for t in inlined)
            flags += " atomic" * (self.fields.get(struct, {}).get("mapType") == "atomic")
            flags += " schema" * (struct in self.fields)
            yield f"{struct}{flags}"
            for field, path, home in self.spread(package, struct):
                yield " " + self.line(struct, field, path, home)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print("\n".join(Generator(sys.argv[1]).run()))
