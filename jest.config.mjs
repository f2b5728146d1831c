import { availableParallelism } from "node:os";

const base = {
  transform: { "^.+\\.ts$": ["ts-jest", { tsconfig: "<rootDir>/test/tsconfig.json" }] },
  cacheDirectory: "<rootDir>/.cache/jest", // the sandbox's temporary directory vanishes with it
  modulePathIgnorePatterns: ["<rootDir>/dist", "<rootDir>/.cache"],
};

export default {
  maxWorkers: availableParallelism() + 3, // much of the time goes into waiting for the end of a window
  projects: [
    // Needs nothing but Node.
    { ...base, displayName: "unit", testMatch: ["<rootDir>/test/unit/**/*.test.ts"] },
    // The real engine, a real sshd, the real kernel and the EC2 emulator: run it by `make test`, which enters the sandbox.
    { ...base, displayName: "integration", testMatch: ["<rootDir>/test/integration/**/*.test.ts"] },
    // Debian machines that boot, and Docker: run it by `make test-real`, which fetches them.
    { ...base, displayName: "real", testMatch: ["<rootDir>/test/real/**/*.test.ts"] },
  ],
};
