import { join } from "node:path";

// Changes one expression of the policy or of a renderer at a time, and counts which of those changes a unit test finds
// (https://stryker-mutator.io). Run it by `make mutation`.
export default {
  mutate: ["components/policy/*.ts", "components/host/ruleset.ts", "components/cloud/groupRules.ts"],
  testRunner: "jest",
  jest: {
    projectType: "custom",
    config: {
      testMatch: ["<rootDir>/test/mutation/all.test.ts"],
      testEnvironment: join(import.meta.dirname, "environment.cjs"),
      moduleNameMapper: { "^@pulumi/.*": "<rootDir>/test/mutation/pulumi.cjs" },
      setupFiles: ["<rootDir>/test/mutation/fewerCases.cjs"],
      transform: {
        "^.+\\.ts$": [
          "ts-jest",
          { tsconfig: "<rootDir>/test/tsconfig.json", isolatedModules: true, diagnostics: false },
        ],
      },
    },
  },
  coverageAnalysis: "perTest",
  thresholds: { high: 95, low: 90, break: 90 },
  reporters: ["clear-text", "progress-append-only", "json"],
  clearTextReporter: { allowColor: false, logTests: false, reportTests: false },
  jsonReporter: { fileName: ".cache/mutation/report.json" },
  tempDirName: ".cache/mutation/tmp",
  ignorePatterns: ["dist", ".dist.*.new", ".cache", "coverage"],
  concurrency: 2,
  maxTestRunnerReuse: 20, // Jest keeps something of every run, and the collector takes ever longer
};
