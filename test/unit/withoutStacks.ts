/**
 * Runs a program against mocks in a third of the time. Pulumi reads the stack of each promise that it makes, and Jest finds the lines of
 * the sources for each.
 */
export async function withoutStacks<T>(run: () => Promise<T>): Promise<T> {
  const before = Object.getOwnPropertyDescriptor(Error, "prepareStackTrace");
  Error.prepareStackTrace = String;
  try {
    return await run();
  } finally {
    if (before) Object.defineProperty(Error, "prepareStackTrace", before);
    else Reflect.deleteProperty(Error, "prepareStackTrace");
  }
}
