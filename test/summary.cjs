// What `make test-all` prints at its end: a line for each file.
module.exports = class {
  onRunComplete(_, { testResults }) {
    const line = ({ testFilePath, numPassingTests, numFailingTests, numPendingTests, perfStats }) => {
      const file = testFilePath.replace(`${process.cwd()}/`, "");
      const counts = [`${numPassingTests} passed`];
      if (numFailingTests > 0) counts.push(`${numFailingTests} FAILED`);
      if (numPendingTests > 0) counts.push(`${numPendingTests} skipped`);
      return `  ${file.padEnd(44)} ${counts.join(", ").padEnd(24)} ${Math.round(perfStats.runtime / 1000)} s`;
    };
    const sorted = [...testResults].sort((a, b) => (a.testFilePath < b.testFilePath ? -1 : 1));
    console.log(["", "Summary", ...sorted.map(line)].join("\n"));
  }
};
