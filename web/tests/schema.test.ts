import { expect, test } from "vitest";

import { fieldOf } from "../src/server/schema";

test("a number with a range becomes a slider within it", () => {
  expect(fieldOf("x", { type: "number", minimum: 0, maximum: 1, default: 0.5 })).toMatchObject({ kind: "number", least: 0, greatest: 1, step: 0.01, standard: 0.5 });
  expect(fieldOf("steps", { anyOf: [{ type: "integer", minimum: 2, maximum: 1000 }, { type: "null" }], default: null })).toMatchObject({ least: 2, greatest: 60, step: 1, standard: null });
});

test("an enumeration becomes a choice, a string a text", () => {
  expect(fieldOf("x", { enum: ["a", "b", null], default: "b" })).toMatchObject({ kind: "choice", choices: ["a", "b"], standard: "b" });
  expect(fieldOf("x", { type: "string" })).toMatchObject({ kind: "text" });
});

test("what cannot be shown has no control", () => {
  expect(fieldOf("x", { type: "number" })).toBeNull();
  expect(fieldOf("x", { type: "array" })).toBeNull();
  expect(fieldOf("x", undefined)).toBeNull();
});
