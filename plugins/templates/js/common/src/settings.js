// The operator's table, read by config.schema.json: that file alone holds keys, defaults and
// ranges. It knows whole numbers and texts.
//
// What is thrown is the error of the call: a string for the operator.

export function read(schema, json) {
  const config = parse(json);
  if (config === null || typeof config !== 'object' || Array.isArray(config)) {
    throw 'config: expected a JSON object';
  }
  const keys = Object.keys(schema.properties);
  for (const key of Object.keys(config)) {
    if (!keys.includes(key)) {
      const known = keys.map((known) => JSON.stringify(known)).join(', ');
      throw `config.${key}: unknown key, expected one of ${known}`;
    }
  }
  const settings = {};
  for (const [key, rules] of Object.entries(schema.properties)) {
    settings[key] = key in config ? config[key] : rules.default;
    const expected = mistake(rules, settings[key]);
    if (expected) {
      const found = [...JSON.stringify(settings[key])].slice(0, 40).join('');
      throw `config.${key}: found ${found}, expected ${expected}`;
    }
  }
  return settings;
}

// Characters, not the halves that JavaScript counts.
export function length(text) {
  return [...text].length;
}

function parse(json) {
  try {
    return JSON.parse(json);
  } catch {
    return null;
  }
}

// What is expected instead, if anything.
function mistake(rules, value) {
  if (rules.type === 'string') {
    const { minLength: least = 0, maxLength: most = 4294967295 } = rules;
    const fits = typeof value === 'string' && length(value) >= least && length(value) <= most;
    return fits ? null : `a text of ${least} to ${most} characters`;
  }
  const { minimum: least = 0, maximum: most = 4294967295 } = rules;
  const fits = Number.isInteger(value) && value >= least && value <= most;
  return fits ? null : `a whole number from ${least} to ${most}`;
}
