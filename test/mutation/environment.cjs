const { TestEnvironment } = require("jest-environment-node");

/** One test that finds a change is enough. Jest's own `bail` only stops between files. */
module.exports = class extends TestEnvironment {
  found = false;

  handleTestEvent({ name, test }) {
    if (name === "test_fn_failure") this.found = true;
    if (name === "test_start" && this.found) test.mode = "skip";
  }
};
