#!/usr/bin/env python3
"""Write the field table of the Kubernetes API (names, numbers, types, merge rules; no descriptions).

  kubernetes.import.py SRC > kubernetes.fields
                                        SRC: a folder with k8s.io/{api,apimachinery,apiextensions-apiserver}
                                        from Debian's golang-k8s-*-dev packages (apt-get download, dpkg -x)
The notation is described in table/parse.rs.
"""
import os, re, sys

GROUPS = """meta/v1 core/v1 apps/v1 batch/v1 autoscaling/v1 autoscaling/v2 networking/v1 policy/v1 rbac/v1 storage/v1
coordination/v1 discovery/v1 events/v1 authentication/v1 authorization/v1 certificates/v1 admission/v1
admissionregistration/v1 node/v1 scheduling/v1 resource/v1 apiextensions/v1""".split()
API_GROUP = {"core": "", "rbac": "rbac.authorization.k8s.io", "apps": "apps", "batch": "batch", "autoscaling": "autoscaling",
             "policy": "policy", "meta": "meta.k8s.io"}
SCALAR = {"string": "string", "bool": "bool", "int": "int32", "int32": "int32", "int64": "int64", "float64": "double", "[]byte": "bytes", "byte": "uint8",
          "uint8": "uint8", "uint32": "uint32", "metav1.Time": "time", "Time": "time", "metav1.MicroTime": "microtime", "MicroTime": "microtime",
          "intstr.IntOrString": "intOrString", "resource.Quantity": "quantity", "runtime.RawExtension": "object", "RawExtension": "object",
          "metav1.Duration": "duration", "types.UID": "string", "types.NodeName": "string", "runtime.Object": "object", "runtime.Unknown": "object",
          "FieldsV1": "object", "JSON": "any", "JSONSchemaURL": "string", "JSONSchemaPropsOrBool": "schemaOrBool",
          "JSONSchemaPropsOrArray": "schemaOrArray", "JSONSchemaPropsOrStringArray": "schemaOrStrings", "interface{}": "any", "any": "any"}


def directory(src, gv):
    group, version = gv.split("/")
    if group == "meta":
        return f"{src}/apimachinery/pkg/apis/meta/v1"
    if group == "apiextensions":
        return f"{src}/apiextensions-apiserver/pkg/apis/apiextensions/v1"
    return f"{src}/api/{group}/{version}"


class Package:
    def __init__(self, src, gv):
        self.gv, self.structs, self.aliases, self.enums, self.order = gv, {}, {}, {}, []
        path = directory(src, gv)
        for name in sorted(os.listdir(path)):
            if name.endswith(".go") and (name.startswith("types") or name in ("group_version.go",)):
                self.parse(open(f"{path}/{name}").read().split("\n"))

    def parse(self, lines):
        marks, detached, i = [], [], 0     # detached: a comment block followed by a blank line still carries +genclient
        while i < len(lines):
            s = lines[i].strip()
            if s.startswith("//"):
                marks.append(s[2:].strip())
            elif not s:
                detached, marks = detached + marks, []
            elif m := re.match(r"type (\w+) struct \{$", s):
                i = self.struct(m[1], [x for x in detached + marks if x.startswith("+")], lines, i + 1)
                marks, detached = [], []
            elif m := re.match(r"type (\w+) struct\{\}", s):
                self.structs[m[1]] = ([], [])
                self.order.append(m[1])
                marks, detached = [], []
            elif m := re.match(r"type (\w+) (.+)$", s):
                self.aliases[m[1]] = (m[2].split("//")[0].strip(), marks)
                marks, detached = [], []
            else:
                if m := re.match(r"(?:const )?\w+\s+(\w+)\s*=\s*\"([^\"]*)\"", s):
                    self.enums.setdefault(m[1], []).append(m[2])
                marks, detached = [], []
            i += 1

    def struct(self, name, marks, lines, i):
        fields, notes, block = [], [], False
        while (s := lines[i].strip()) != "}":
            if s.startswith("/*"):
                block = True
            if block:
                block = "*/" not in s
            elif s.startswith("//"):
                notes.append(s[2:].strip())
            elif m := re.match(r"(?:(\w+)\s+)?([\w.*\[\]{}]+)\s+`(.*)`", s):
                fields.append((m[1], m[2], dict(re.findall(r'(\w+):"([^"]*)"', m[3])), notes))
                notes = []
            elif not s:
                notes = []
            i += 1
        self.structs[name] = (fields, marks)
        self.order.append(name)
        return i


class Table:
    def __init__(self, src):
        self.packages = {gv: Package(src, gv) for gv in GROUPS}

    def type(self, go, gv):
        go = go.lstrip("*")
        if go in SCALAR and not (go in ("JSON", "FieldsV1") and gv not in ("apiextensions/v1", "meta/v1")):
            return SCALAR[go]
        if go.startswith("[]"):
            return "[]" + self.type(go[2:], gv)
        if m := re.match(r"map\[([\w.]+)\](.+)", go):
            return "{}" + self.type(m[2], gv)
        home = {"metav1": "meta/v1", "v1": "core/v1", "corev1": "core/v1", "apiv1": "core/v1", "core": "core/v1", "authenticationv1": "authentication/v1"}
        if "." in go:
            prefix, go = go.split(".")
            if prefix == "v1" and gv == "core/v1":
                prefix = "metav1"
            if prefix not in home:
                return "any"
            gv = home[prefix]
            package = self.packages[gv]
            shown = f"{gv}.{go}"
        else:
            package, shown = self.packages[gv], go
        if go in package.aliases:
            target, marks = package.aliases[go]
            if target.startswith("=") or target == "string":
                values = package.enums.get(go, [])
                return "string" + (f"({'|'.join(values)})" if values and "+enum" in marks and all(values) else "")
            return self.type(target, gv)
        if go not in package.structs:
            return "any"
        return shown

    def rows(self, gv, name):
        for field, go, tags, notes in self.packages[gv].structs[name][0]:
            if "json" not in tags:
                continue
            json, *flags = tags["json"].split(",")
            number = (tags.get("protobuf", "").split(",") + ["-", "-"])[1] if tags.get("protobuf") else "-"
            marks = [n[1:] for n in notes if n.startswith("+")]
            get = lambda key: next((m.split("=", 1)[1].strip() for m in marks if m.startswith(key + "=")), None)
            out = []
            if "inline" in flags:
                json = "<inline>"
            elif "omitempty" not in flags and "omitzero" not in flags and "optional" not in marks:
                out.append("required")
            if tags.get("patchStrategy"):
                out.append("patch=" + tags["patchStrategy"])
            if tags.get("patchMergeKey"):
                out.append("key=" + tags["patchMergeKey"])
            if kind := get("listType"):
                keys = [m.split("=", 1)[1] for m in marks if m.startswith("listMapKey=")]
                out.append("list=" + kind + ("(" + ",".join(keys) + ")" if keys else ""))
            for key in ("structType", "mapType"):
                if get(key):
                    out.append(f"{key[:-4]}={get(key)}")
            if get("default") not in (None, "", '""'):
                out.append("default=" + get("default").replace(" ", ""))
            if go.startswith("*") and json != "<inline>" and (SCALAR.get(go[1:]) or self.type(go, gv).startswith("string")):
                out.append("ptr")
            if get("featureGate"):
                out.append("gate=" + get("featureGate"))
            yield json, number, self.type(go, gv), out

    def write(self):
        for gv in GROUPS:
            package = self.packages[gv]
            group = API_GROUP.get(gv.split("/")[0], gv.split("/")[0] + ".k8s.io")
            print("\nversion", gv, "group=" + (group or '""'))
            for name in package.order:
                fields, marks = package.structs[name]
                tops = [t for _, t, tags, _ in fields if "inline" in tags.get("json", "")]
                is_kind = any(t.endswith("TypeMeta") for t in tops)
                extra = []
                if is_kind and not name.endswith("List"):
                    extra.append("kind")
                    if "+genclient" in marks:
                        extra.append("cluster" if "+genclient:nonNamespaced" in marks else "namespaced")
                    for m in marks:
                        if sub := re.search(r"subresource=([\w/]+)", m):
                            if "sub=" + sub[1] not in extra:
                                extra.append("sub=" + sub[1])
                print(f"type {name}" + ("  # " + " ".join(extra) if extra else ""))
                for json, number, kind, out in self.rows(gv, name):
                    print(f" {json} {number} {kind}" + (" " + " ".join(out) if out else ""))


Table(sys.argv[1]).write()
