// A policy that takes seconds to compile.

/** Functions that are added, and what each computes. */
const [FUNCTIONS, STEPS] = [12, 5_000];
const [TYPES, DEFINED, CODE] = [1, 3, 10];

const number = (n) => Buffer.from(n < 128 ? [n] : [(n & 127) | 128, ...number(n >>> 7)]);

/** `[n, the place behind it]` (LEB128). */
function read(bytes, at) {
  let n = 0;
  for (let shift = 0; ; shift += 7) {
    const byte = bytes[at++];
    n += (byte & 127) * 2 ** shift;
    if (byte < 128) return [n, at];
  }
}

/** The module with functions beside its own that nobody calls. */
export function slowToCompile(module) {
  const parts = [module.subarray(0, 8)];
  let params = 0;
  for (let at = 8; at < module.length;) {
    const id = module[at];
    const [length, start] = read(module, at + 1);
    let body = module.subarray(start, start + length);
    const [count, rest] = read(body, 0);
    // The first type is (func (param ...) ...), and all of them get that one.
    if (id === TYPES) [params] = read(body, rest + 1);
    const more = id === DEFINED ? Buffer.alloc(FUNCTIONS)
      : id === CODE ? Buffer.concat(Array(FUNCTIONS).fill(busy(params))) : null;
    if (more) body = Buffer.concat([number(count + FUNCTIONS), body.subarray(rest), more]);
    parts.push(Buffer.from([id]), number(body.length), body);
    at = start + length;
  }
  return Buffer.concat(parts);
}

/** A number of the memory is looked at, many times, and kept, so that none of it is left out; then
 * unreachable, which any type has room for. */
function busy(local) {
  const load = Buffer.from([0x41, 0, 0x28, 2, 0, 0x21, local]);
  // (if (i32.eq it (i32.const 7)) (then (local.set it (i32.add it (i32.const 1)))))
  const step = Buffer.from([0x20, local, 0x41, 7, 0x46, 0x04, 0x40, 0x20, local, 0x41, 1, 0x6a, 0x21, local, 0x0b]);
  const store = Buffer.from([0x41, 0, 0x20, local, 0x36, 2, 0, 0, 0x0b]);
  const code = Buffer.concat([Buffer.from([1, 1, 0x7f]), load, ...Array(STEPS).fill(step), store]);
  return Buffer.concat([number(code.length), code]);
}
