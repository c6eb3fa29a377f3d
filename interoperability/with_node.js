// Stores and reads with a client of Node.js', for others.py.
'use strict';

const [name, action, servers, count] = process.argv.slice(2);
const list = servers.split(',');

const VALUES = {
  text: 'grüße', digits: '2024_11', bytes: Buffer.from([255, 0]), number: 17,
  structure: {a: [1, 'b']}, true: true, float: 1.5,
};

function described(value) {
  if (value === undefined || value === null) return 'miss';
  if (value === true) return 'true';
  if (Buffer.isBuffer(value)) return 'bytes:' + value.toString('hex');
  if (typeof value === 'string') return 'text:' + value;
  if (typeof value === 'number') {
    return (Number.isInteger(value) ? 'number:' : 'float:') + value;
  }
  if (typeof value === 'object') return 'structure:' + JSON.stringify(value);
  return typeof value + ':' + value;
}

function client() {
  if (name === 'memjs') {
    const made = require('memjs').Client.create(list.join(','), {retries: 0});
    return {
      set: (key, value) => made.set(key, value, {expires: 600}),
      get: async (key) => (await made.get(key)).value,
      end: () => made.quit(),
    };
  }
  const made = new (require('memcached'))(list);
  const promised = (method, ...given) => new Promise((resolve, reject) =>
    made[method](...given, (error, value) =>
      error ? reject(error) : resolve(value)));
  return {
    set: (key, value) => promised('set', key, value, 600),
    get: (key) => promised('get', key),
    end: () => made.end(),
  };
}

async function main() {
  const made = client();
  const done = {};
  if (action === 'place') {
    for (let number = 0; number < Number(count); number += 1) {
      await made.set(`place:${number}`, 'x');
    }
  } else if (action === 'write') {
    for (const [kind, value] of Object.entries(VALUES)) {
      try {
        done[kind] = await made.set(`theirs:${kind}`, value)
          ? 'stored' : 'refused';
      } catch (error) {
        done[kind] = 'refused:' + error.name;
      }
    }
  } else {
    for (const kind of [...Object.keys(VALUES), 'pickled']) {
      try {
        done[kind] = described(await made.get(`ours:${kind}`));
      } catch (error) {
        done[kind] = 'error:' + error.name;
      }
    }
  }
  made.end();
  console.log(JSON.stringify(done));
}

main();
