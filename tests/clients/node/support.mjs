// What the scripts share.
import { strict as assert } from "node:assert";

export const { REAL, SLOW, ENDS } = process.env;

export async function until(what, holds) {
  const deadline = Date.now() + 60_000;
  while (!(await holds())) {
    assert(Date.now() < deadline, what);
    await new Promise((done) => setTimeout(done, 20));
  }
}

export async function idle(admin) {
  const { slots, totals } = await (await fetch(`${admin}/admin/slots`)).json();
  return slots.every((slot) => slot.state === "idle") && totals;
}

export const slowIsFree = () => until("the slot is free again", () => idle(process.env.SLOW_ADMIN));

/** Sends the gateway that talks for minutes away. */
export const endIt = () => process.kill(Number(process.env.ENDS_PID), "SIGTERM");

/** The error that the action throws. */
export async function thrown(action) {
  try {
    await action();
  } catch (error) {
    return error;
  }
  throw new assert.AssertionError({ message: "nothing was thrown" });
}
