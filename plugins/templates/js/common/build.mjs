// Makes the component. Without these features it imports nothing but the contract.

import { componentize } from '@bytecodealliance/componentize-js';
import { readFile, rename, writeFile } from 'node:fs/promises';

const schema = JSON.parse(await readFile('config.schema.json', 'utf8'));
await writeFile('src/schema.js', `export const schema = ${JSON.stringify(schema)};\n`);

const { component } = await componentize({
  sourcePath: 'src/policy.js',
  witPath: 'wit',
  worldName: '{{world}}',
  disableFeatures: ['random', 'stdio', 'clocks', 'http', 'fetch-event'],
});

// Renamed into place: a gateway that watches this folder never sees half a file.
await writeFile('.{{name}}.tmp', component);
await rename('.{{name}}.tmp', '{{name}}.wasm');
