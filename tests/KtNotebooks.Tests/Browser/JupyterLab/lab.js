import './build/style.js';
import { JupyterLab } from '@jupyterlab/application';
import { plugins, renderers } from './build/extensions.js';

const lab = new JupyterLab({ mimeExtensions: renderers });
// It asks about news from the network.
for (const plugin of plugins.flatMap(module => module.default)) if (!plugin.id.endsWith(':announcements')) lab.registerPlugin(plugin);
window.jupyterlab = lab;
lab.start();
