// In place of @pulumi/…, of which what is mutated uses nothing; it would be loaded anew for each change.
const classes = {};
module.exports = new Proxy(classes, {
  get: (_, name) => (name === "__esModule" ? true : (classes[name] ??= class extends Error {})),
});
