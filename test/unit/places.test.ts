import { placeOf } from "../../components/host/places";

describe("the place of a host", () => {
  test.each<[string, object, object]>([
    ["a name in capitals", { host: "MX1.Example.org" }, { host: "mx1.example.org" }],
    ["a name with its last dot", { host: "mx1.example.org." }, { host: "mx1.example.org" }],
    ["the default port", { host: "198.51.100.10" }, { host: "198.51.100.10", port: 22 }],
    ["a long IPv6 address", { host: "2001:0DB8:0:0::0010" }, { host: "2001:db8::10" }],
    [
      "a bastion written otherwise",
      { host: "10.0.0.1", bastion: { host: "Jump", user: "jump" } },
      { host: "10.0.0.1", bastion: { host: "jump.", port: 22 } },
    ],
  ])("is the same: %s", (_, a, b) => {
    expect(placeOf(a)).toBeDefined();
    expect(placeOf(a)).toBe(placeOf(b));
  });

  test.each<[string, object, object]>([
    ["other ports", { host: "mx1", port: 2222 }, { host: "mx1" }],
    ["other names", { host: "mx1" }, { host: "mx1.example.org" }],
    ["a bastion before one of them", { host: "10.0.0.1", bastion: { host: "jump" } }, { host: "10.0.0.1" }],
    ["other bastions", { host: "10.0.0.1", bastion: { host: "a" } }, { host: "10.0.0.1", bastion: { host: "b" } }],
  ])("differs: %s", (_, a, b) => {
    expect(placeOf(a)).not.toBe(placeOf(b));
  });

  test.each<[string, unknown]>([
    ["no map", "mx1"],
    ["an address that is known later", { host: Promise.resolve("mx1") }],
    ["a bastion that is known later", { host: "mx1", bastion: { host: Promise.resolve("jump") } }],
    ["a port that is none", { host: "mx1", port: "22" }],
  ])("is not known: %s", (_, value) => {
    expect(placeOf(value)).toBeUndefined();
  });
});
