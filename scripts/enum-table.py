#!/usr/bin/env python3
"""Writes src/api/schema/enums.table: which values upstream publishes for a field.

    scripts/enum-table.py FACTS API > src/api/schema/enums.table

FACTS is the directory that scripts/wire-table.py reads, API an unpacked copy of the Go module k8s.io/api, whose types
say `+enum` where the constants of a type are all its values. A line of the table: struct, field, values in order.
"""
import importlib.util
import pathlib
import re
import sys

spec = importlib.util.spec_from_file_location("wire_table", pathlib.Path(__file__).with_name("wire-table.py"))
wire_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wire_table)


def enums(api):
    """Values by the short full name of their type: core.v1.RestartPolicy."""
    found = {}
    for path in sorted(pathlib.Path(api).glob("*/v*/types.go")):
        package = f"{path.parent.parent.name}.{path.parent.name}"
        text = path.read_text()
        # A comment belongs to the declaration below it, without an empty line between.
        declared = re.findall(r"((?:^//.*\n)+)^type (\w+) string$", text, re.M)
        names = {name for comment, name in declared if re.search(r"^// \+enum$", comment, re.M)}
        values = {}
        for _, name, value in re.findall(r'^\s*(?:const\s+)?(\w+)\s+(\w+)\s+=\s+"(.*)"', text, re.M):
            values.setdefault(name, set()).add(value)
        for name in names & values.keys():
            found[f"{package}.{name}"] = sorted(values[name])
    return found


def main(facts, api):
    table = wire_table.Generator(facts)
    known = enums(api)
    for struct in sorted(table.wire):
        if struct not in table.fields or isinstance(table.wire[struct], str):
            continue
        package = struct.rsplit(".", 1)[0]
        for field, _, home in table.spread(package, struct):
            go = re.sub(r"^(\*|\[\]|map\[\w+\])+", "", field["type"])
            name = go if "." in go else f"{home}.{go}"
            for candidate in (name, name.replace("v1.", "core.v1.", 1)):
                if candidate in known:
                    print(struct, field["json"], ",".join(v or '""' for v in known[candidate]))
                    break


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
