// One bundle of all extensions that package.json names; their schemas and themes go beside it, where jupyter-lab serves them from.
const fs = require('fs');
const path = require('path');
const { Build } = require('@jupyterlab/builder');
const base = require('@jupyterlab/builder/lib/webpack.config.base');
const webpack = require('webpack');

process.chdir(__dirname); // what is built of the themes asks for its loaders from where it is called
const build = path.join(__dirname, 'build');
const kind = name => require(path.join(name, 'package.json')).jupyterlab ?? {};
const names = Object.keys(require('./package.json').dependencies).filter(name => Object.keys(kind(name)).length > 0);
const assets = Build.ensureAssets({ packageNames: names, output: build });
const list = names => `[${names.map(name => `require('${name}')`).join(', ')}]`;
fs.writeFileSync(path.join(build, 'extensions.js'), `export const plugins = ${list(names.filter(name => kind(name).extension))};
export const renderers = ${list(names.filter(name => kind(name).mimeExtension))};
`);

module.exports = [{
  ...base,
  mode: 'production',
  devtool: false,
  performance: false,
  optimization: { minimize: false },
  context: __dirname,
  entry: './main.js',
  output: { path: build, filename: 'bundle.js' },
  plugins: [...(base.plugins ?? []), new webpack.DefinePlugin({ 'process.env': '{}', 'process.cwd': '() => "/"' })]
}, ...assets];
