// What every component exports. What this policy decides is in hook.js.

import { Config, summary } from './hook.js';
import { schema } from './schema.js';
import { read } from './settings.js';

export * from './hook.js';

export const policy = {
  describe() {
    return {
      name: '{{name}}',
      version: '0.1.0',
      summary,
      configSchema: JSON.stringify(schema),
    };
  },

  configure(json) {
    Config.current = new Config(read(schema, json));
  },

  selfTest() {
    Config.current.selfTest();
  },
};
