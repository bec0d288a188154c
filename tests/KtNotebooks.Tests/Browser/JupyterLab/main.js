// Where the other files come from is known to the page alone, so all else is loaded after it was asked.
import { PageConfig } from '@jupyterlab/coreutils';
__webpack_public_path__ = PageConfig.getOption('fullStaticUrl') + '/';
import('./lab.js');
